int plain(int);
int used(int n) { return plain(n) + 1; }
