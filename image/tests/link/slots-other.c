/* The other library. */
extern long counter, pair[2];
extern int number;
extern short word;
extern unsigned char byte;
extern double real;
extern long (*pointer)(long);
long helper(long);

extern long table[8];
long table[8] = {100, 101, 102, 103, 104, 105, 106, 107};
long counter = 10, pair[2] __attribute__((aligned(16))) = {20, 30};
int number = 1;
short word = 0x1234;
unsigned char byte = 1;
double real = 2.5;
long helper(long x) { return x * 3; }
long (*pointer)(long) = helper;
