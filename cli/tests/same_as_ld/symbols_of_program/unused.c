int unused(int n) { return n; }
