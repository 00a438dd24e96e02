extern long table[];
extern long (*pointer)(long);
long twice(long);
long run(long i) {
    long kept[3] = {i, i + 1, i + 2};
    table[i] += twice(i);
    table[i + 1] = 5;
    __asm__ volatile("incq table(,%0,8)\n\tcmpq $table, %0" : : "r"(i) : "cc", "memory");
    return table[i] + kept[1] + pointer(kept[2]);
}
