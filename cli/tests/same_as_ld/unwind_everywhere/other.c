long table[4] = {1, 2, 3, 4};
long twice(long a) { return 2 * a; }
long (*pointer)(long) = twice;
