int gone(int); int in_library(int c) { return c > 5 ? gone(c) : (int)(long)gone; }
