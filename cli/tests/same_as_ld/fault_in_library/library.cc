extern long table[], value;
extern long (*pointer)(long);
extern "C" {
long get(long i) {
    try {
        return table[i];
    } catch (int e) {
        return -e;
    }
}
long add(long i, long b) {
    long k = b * 3 + value;
    try {
        table[i] += b;
        k += b;
    } catch (int e) {
        return k * 1000 + e;
    }
    return k;
}
long put(long i) {
    try {
        table[i] = 5;
    } catch (int e) {
        return e + 1;
    }
    return 0;
}
long call(long a) {
    try {
        return pointer(a);
    } catch (int e) {
        return 100 + e;
    }
}
long uncaught(long i) { return table[i] + 1; }
}
