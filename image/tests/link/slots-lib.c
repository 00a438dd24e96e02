/* Refers to another library's variables and functions directly, by every kind of instruction. */
#include <stdio.h>

extern long counter, pair[2];
extern int number;
extern short word;
extern unsigned char byte;
extern double real;
extern long (*pointer)(long);
long helper(long);
long keeps(void), calls(long), jumps(long), old_call(long), swaps(long), exchanges(void), bytes(long);
long results(long *);
long *address(void);
double floats(double);

/* All registers, the flags and the red zone are as the instruction leaves them. */
__asm__(".text\n.globl keeps\n.type keeps, @function\nkeeps:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov $1, %eax\nmov $2, %ecx\nmov $3, %edx\nmov $4, %ebx\nmov $5, %ebp\nmov $6, %esi\nmov $7, %edi\n"
        "mov $8, %r8d\nmov $9, %r9d\nmov $10, %r10d\nmov $11, %r11d\nmov $12, %r12d\nmov $13, %r13d\n"
        "mov $14, %r14d\nmov $15, %r15d\n"
        "movq $16, -8(%rsp)\nmovq $17, -128(%rsp)\n"
        "stc\n"
        "incq counter(%rip)\n"
        "adcq $4, counter(%rip)\n"
        "jc 1f\n"
        "cmpq $0x7fff, counter(%rip)\n"
        "jge 1f\n"
        "cmpw $0x1234, word(%rip)\n"
        "jne 1f\n"
        "lock xaddq %r15, counter+0(%rip)\n"
        "movl $77, number(%rip)\n"
        "movb $3, byte(%rip)\n"
        "cmp $1, %rax\njne 1f\ncmp $2, %rcx\njne 1f\ncmp $3, %rdx\njne 1f\ncmp $4, %rbx\njne 1f\n"
        "cmp $5, %rbp\njne 1f\ncmp $6, %rsi\njne 1f\ncmp $7, %rdi\njne 1f\ncmp $8, %r8\njne 1f\n"
        "cmp $9, %r9\njne 1f\ncmp $10, %r10\njne 1f\ncmp $11, %r11\njne 1f\ncmp $12, %r12\njne 1f\n"
        "cmp $13, %r13\njne 1f\ncmp $14, %r14\njne 1f\n"
        "cmpq $16, -8(%rsp)\njne 1f\ncmpq $17, -128(%rsp)\njne 1f\n"
        "mov %r15, %rax\njmp 2f\n1:\nmov $-1, %rax\n2:\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
__asm__(".globl calls\n.type calls, @function\ncalls:\nsub $8, %rsp\ncall *pointer(%rip)\nadd $8, %rsp\nret\n"
        ".globl jumps\n.type jumps, @function\njumps:\nmov pointer(%rip), %rax\njmp *%rax\n"
        /* As old assemblers call, and jump under a condition. */
        ".globl old_call\n.type old_call, @function\nold_call:\nsub $8, %rsp\n.byte 0xe8\n.long helper - . - 4\n"
        "add $8, %rsp\nmov %rax, %rdi\ntest %rdi, %rdi\n.byte 0x0f, 0x85\n.long helper - . - 4\nret\n");
__asm__(".globl swaps\n.type swaps, @function\nswaps:\nxchg %rdi, counter(%rip)\nimulq $7, counter(%rip), %rax\n"
        "mulq counter(%rip)\nbtsq $40, counter(%rip)\nshldq $3, %rdi, counter(%rip)\nxor counter(%rip), %rax\nret\n"
        ".globl exchanges\n.type exchanges, @function\nexchanges:\npush %rbx\nmov pair(%rip), %rax\nmov 8+pair(%rip), %rdx\n"
        "mov $40, %ebx\nmov $50, %ecx\nlock cmpxchg16b pair(%rip)\nsetz %al\nmovzbl %al, %eax\n"
        "add pair+8(%rip), %rax\npop %rbx\nret\n"
        ".globl bytes\n.type bytes, @function\nbytes:\nmov %rdi, %rax\nmov %ah, byte(%rip)\nmov byte(%rip), %cl\n"
        "movzbl byte(%rip), %r10d\nadd byte(%rip), %cl\nmovzbl %cl, %eax\nadd %r10, %rax\nret\n");
__asm__(".globl results\n.type results, @function\nresults:\npush %r12\npush %r13\npush %r14\n"
        "mov counter(%rip), %r9\nmov %r9, (%rdi)\nmov counter(%rip), %r12\nmov %r12, 8(%rdi)\n"
        "mov counter(%rip), %r13\nmov %r13, 16(%rdi)\nmovslq number(%rip), %r14\nmov %r14, 24(%rdi)\n"
        "movswl word(%rip), %r8d\nmov %r8, 32(%rdi)\nlea pair+8(%rip), %rsi\nmov (%rsi), %rsi\nmov %rsi, 40(%rdi)\n"
        "lea counter(%rip), %r11d\nmov (%r11), %r11\nmov %r11, 48(%rdi)\nmov number(%rip), %eax\n"
        "pop %r14\npop %r13\npop %r12\nret\n"
        ".globl floats\n.type floats, @function\nfloats:\naddsd real(%rip), %xmm0\ncvtsi2sdl number(%rip), %xmm1\n"
        "mulsd %xmm1, %xmm0\nfldl real(%rip)\nfstpl real(%rip)\nret\n");

long *address(void) { return &counter; }

#if !defined __pic__ && !defined __pie__
/* As addresses below 2 GiB, which only code that is not position-independent may have. */
extern long table[8];
long absolute(long *);
__asm__(".globl absolute\n.type absolute, @function\nabsolute:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\nsub $32, %rsp\n"
        "mov $table, %ebx\nmov (%rbx), %rax\nmov %rax, (%rdi)\n"
        "mov $table+8, %r9d\nmov (%r9), %rax\nmov %rax, 8(%rdi)\n"
        "mov $table+16, %rsi\nmov (%rsi), %rax\nmov %rax, 16(%rdi)\n"
        "mov $table+24, %r15\nmov (%r15), %rax\nmov %rax, 24(%rdi)\n"
        "movabs $table+32, %rdx\nmov (%rdx), %rax\nmov %rax, 32(%rdi)\n"
        "push $table+40\npop %rcx\nmov (%rcx), %rax\nmov %rax, 40(%rdi)\n"
        "mov $table, %ebx\nxor %r8d, %r8d\ncmp $table, %rbx\nsete %r8b\nmov %rbx, %rax\ncmp $table+8, %rax\n"
        "adc %r8, %r8\nmov %ebx, %r12d\ntest $table, %eax\nsetnz %r13b\nmovzbl %r13b, %r13d\nadd %r13, %r8\n"
        "sub $table-5, %r12\nadd %r12, %r8\nmov %r8, 48(%rdi)\n"
        "movq $table+48, 16(%rsp)\nmov 16(%rsp), %rax\nmov (%rax), %rax\nmov %rax, 56(%rdi)\n"
        "movq $table, 64(%rdi)\nmov $8, %esi\nsubq $table-1, (%rdi,%rsi,8)\nmovl $table, 72(%rdi)\n"
        "andl $0, 76(%rdi)\nxor %r8d, %r8d\ncmpl $table, 8(%rdi,%rsi,8)\nsete %r8b\nmov %r8, 72(%rdi)\n"
        "mov $3, %eax\nmov table(,%rax,8), %rdx\nmov %rdx, 80(%rdi)\nmov table+8, %rcx\nmov %rcx, 88(%rdi)\n"
        "mov $16, %ebp\nmov table(%rbp), %rax\nmov %rax, 96(%rdi)\n"
        "mov $1, %r12d\nmov table(%rbp,%r12,8), %r13\nmov %r13, 104(%rdi)\n"
        "lea table(%rbp), %rbp\nmov (%rbp), %rax\nmov %rax, 112(%rdi)\n"
        "mov $8, %r13d\nstc\nadcq $1, table(%r13)\nincq table(%r13,%r12,8)\nadd %r12, table+8(,%r12,8)\n"
        "cvtsi2sdq table(%r13), %xmm0\ncvttsd2si %xmm0, %rax\nmov %rax, 120(%rdi)\n"
        "mov table(,%r12,8), %r12\nmov %r12, 128(%rdi)\nlea table(%r13,%r13), %r14d\nmov (%r14), %r14\n"
        "mov %r14, 136(%rdi)\nlea table+8(%r13,%r13,2), %r13\nmov (%r13), %rax\nmov %rax, 144(%rdi)\n"
        "add $32, %rsp\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
static void run_absolute(void) {
    long found[19] = {0};
    absolute(found);
    printf("absolute");
    for (int i = 0; i < 19; i++)
        printf(" %ld", found[i]);
    printf("\n");
}
#else
static void run_absolute(void) {}
#endif

/* What a compiler makes of it; without optimization, in the red zone. */
static long leaf(long a) {
    long twice = a * 2, sum = a + twice;
    counter += sum;
    if (number == 77)
        byte++;
    pair[1] -= counter;
    return twice + counter + byte + pair[1];
}

void run(void);
void run(void) {
    long found[7] = {0};
    printf("keeps %ld %ld\n", keeps(), counter);
    printf("calls %ld %ld %ld\n", calls(5), jumps(6), old_call(7));
    printf("swaps %lx %lx\n", swaps(0x123456789), counter);
    printf("exchanges %ld %ld %ld\n", exchanges(), pair[0], pair[1]);
    printf("bytes %ld %d\n", bytes(0x4321), byte);
    printf("results %ld", results(found));
    for (int i = 0; i < 7; i++)
        printf(" %lx", found[i]);
    printf("\nfloats %g %g\n", floats(1.5), real);
    printf("address %d\n", address() == &counter && *address() == counter);
    run_absolute();
    printf("leaf %lx %lx\n", leaf(3), leaf(number));
}
