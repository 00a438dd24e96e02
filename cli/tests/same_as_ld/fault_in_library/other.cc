static long throws(long a) { throw static_cast<int>(a); }
long table[4] = {1, 2, 3, 4};
long value = 9;
long (*pointer)(long) = throws;
