/* Guests that try to become their own kernel. The first argument names the attempt.
 *
 * No C library: what the first instruction does is the attempt's choice. A guest that went on after
 * its attempt says at which privilege level it is; 42 means that it went on at CPL 3, 100 that it
 * runs at CPL 0. The addresses of the monitor's pages are worked out from the stack's, as any guest
 * could. */

typedef unsigned long u64;
typedef unsigned int u32;

#define WENT_ON 42
#define PRIVILEGED 100
#define WRONG 101
#define NO_SUCH_ATTEMPT 102

#define CALL_PORT 0x7f
#define FAULT_PORT 0x7d

static u64 stack_high;

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");

static long call(long number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    long result;
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = e;
    register u64 r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static u32 level(void) {
    u32 cs;
    __asm__ volatile("mov %%cs, %0" : "=r"(cs));
    return cs & 3;
}

static void leave(int status) {
    for (;;) call(231, status, 0, 0, 0, 0, 0);
}

/* A system call that changes nothing: a way to meet whatever was prepared for the next entry. */
static void enter(void) { call(39, 0, 0, 0, 0, 0, 0); }

static char *map(u64 at, u64 length, int protection) {
    return (char *)call(9, at, length, protection, at ? 0x32 : 0x22, -1, 0);
}

static void say(const char *text) {
    u64 length = 0;
    while (text[length]) length++;
    call(1, 1, (u64)text, length, 0, 0, 0);
}

static int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

static u64 number(const char *text) {
    u64 value = 0;
    for (; *text >= '0' && *text <= '9'; text++) value = value * 10 + (*text - '0');
    return value;
}

/* The monitor's pages: tables, then the gates of faults (and of calls, where those come at CPL 0),
 * then the entry of calls that come at CPL 3. A guard and the stack lie below. */
static u64 monitor(int page) { return stack_high + (64 << 10) + page * 4096ul; }

/* Goes to `target` as a call would: RCX and R11 say where to go on, and with which flags. */
static void forge(u64 target, u64 back, u64 flags) {
    register u64 r11 __asm__("r11") = flags;
    __asm__ volatile("jmp *%1" : : "a"(39l), "r"(target), "c"(back), "r"(r11) : "memory");
    __builtin_unreachable();
}

__asm__(".globl landed\nlanded: mov $42, %edi\n"
        "mov %cs, %eax\n and $3, %eax\n jnz 1f\n mov $100, %edi\n"
        "1: mov $231, %eax\n syscall\n ud2\n");
extern char landed[];

/* With IOPL 3 a guest would have all ports, CLI and STI. */
__asm__(".globl landed_with_ports\nlanded_with_ports: mov $101, %edi\n"
        "pushf\n pop %rax\n test $0x3000, %eax\n jnz 1f\n cli\n"
        "1: mov $231, %eax\n syscall\n ud2\n");
extern char landed_with_ports[];

#define ONE(name, code) \
    if (same(attempt, name)) { __asm__ volatile(code : : : "rax", "rcx", "rdx", "rbx", "memory"); goto after; }

/* What the very first exit is decides nothing. */
static void first_exit(const char *attempt) {
    if (same(attempt, "first-exit-call-port")) {
        __asm__ volatile("lea 1f(%%rip), %%rcx\n mov $39, %%eax\n outb %%al, %0\n 1:"
                         : : "i"(CALL_PORT) : "rax", "rcx");
        enter();
        leave(level() ? WENT_ON : PRIVILEGED);
    }
    if (same(attempt, "first-exit-fault-port"))
        __asm__ volatile("outb %%al, %0" : : "i"(FAULT_PORT));
    if (same(attempt, "first-exit-fault")) {
        /* The stack's second window has never been touched. */
        *(volatile char *)(stack_high - (3 << 20)) = 1;
        enter();
        leave(level() ? WENT_ON : PRIVILEGED);
    }
    if (same(attempt, "first-exit-forged-call")) forge(monitor(2), (u64)landed, 0x3202);
    if (same(attempt, "first-exit-gate")) forge(monitor(1), (u64)landed, 0x3202);
}

void begin(u64 *words) {
    const char *attempt = (const char *)words[2];
    const char *argument = words[0] > 2 ? (const char *)words[3] : "0";
    stack_high = (((u64)words + (1 << 30) - 1) & ~((1ul << 30) - 1)) - (1 << 20) - (64 << 10);
    first_exit(attempt);
    u64 value = number(argument);
    char *page;

    /* Ports. */
    if (same(attempt, "out")) { __asm__ volatile("outb %%al, %%dx" : : "a"(39), "d"(value)); goto after; }
    if (same(attempt, "out32")) { __asm__ volatile("outl %%eax, %%dx" : : "a"(39), "d"(value)); goto after; }
    if (same(attempt, "in")) { __asm__ volatile("inb %%dx, %%al" : : "a"(39), "d"(value)); goto after; }
    if (same(attempt, "outs")) {
        __asm__ volatile("rep outsb" : : "c"(3l), "S"(stack_high - 64), "d"(value) : "memory");
        goto after;
    }

    /* The monitor's pages. */
    if (same(attempt, "read-monitor")) { volatile char c = *(volatile char *)monitor(value); (void)c; goto after; }
    if (same(attempt, "write-monitor")) { *(volatile char *)monitor(value) = 0; goto after; }
    if (same(attempt, "jump-monitor")) forge(monitor(value / 4096) + value % 4096, (u64)landed, 0x3246);
    if (same(attempt, "forge-ports")) forge(monitor(2), (u64)landed_with_ports, 0x3246);
    if (same(attempt, "forge-back")) {
        static const u64 targets[] = {1ul << 47, (1ul << 47) - 4096, 1ul << 63, 0xffffffff80000000ul, -1ul, -2ul};
        forge(monitor(2), targets[value], 0x202);
    }
    if (same(attempt, "frame-on-monitor-stack")) {
        __asm__ volatile("mov %0, %%rsp\n jmp *%1" : : "r"(monitor(1) - 48), "r"(monitor(1) + 14 * 16));
        __builtin_unreachable();
    }

    /* Interrupts, traps. */
    if (same(attempt, "int")) {
        page = map(0, 4096, 7);
        page[0] = (char)0xcd, page[1] = (char)value, page[2] = (char)0xc3;
        ((void (*)(void))page)();
        goto after;
    }
    ONE("int1", ".byte 0xf1")
    ONE("trap-flag-call",
        "pushf\n pop %%rax\n or $0x100, %%eax\n push %%rax\n mov $39, %%eax\n popf\n syscall\n nop")

    /* The same, where the trap is held back by a load of SS. */
    ONE("trap-flag-shadow",
        "mov %%ss, %%edx\n pushf\n pop %%rax\n or $0x100, %%eax\n push %%rax\n mov $39, %%eax\n popf\n"
        " mov %%edx, %%ss\n syscall\n nop\n nop")

    /* Flags across a call: what a guest may set comes back, privilege doesn't. */
    if (same(attempt, "flags")) {
        static const u64 flags[] = {0x202, 0x602, 0x40202, 0x200202, 0x3202, 0x4202, 0x8d7, 0x60002, 0x1a0202};
        for (u32 at = 0; at < sizeof flags / 8; at++) {
            u64 before, after;
            __asm__ volatile("push %2\n popf\n pushf\n pop %0\n mov $39, %%eax\n syscall\n pushf\n pop %1\n"
                             "push $2\n popf"
                             : "=&r"(before), "=&r"(after) : "r"(flags[at]) : "rax", "rcx", "r11", "memory", "cc");
            if (after & 0x3000 || !level()) leave(PRIVILEGED);
            if ((before ^ after) & 0x40cd5) leave(WRONG);
        }
        leave(WENT_ON);
    }
    /* Nothing is ever pushed onto a guest's stack, wherever RSP points. */
    if (same(attempt, "stack")) {
        u64 stacks[] = {0, 8, monitor(1), monitor(2), 1ul << 47, 1ul << 63, -8ul, (u64)landed};
        char *fresh = map(0, 32ul << 20, 3);
        for (u32 at = 0; at < sizeof stacks / 8; at++) {
            /* A call, then a page fault. */
            __asm__ volatile("mov %%rsp, %%rbx\n mov %0, %%rsp\n mov $39, %%eax\n syscall\n movb $1, (%1)\n mov %%rbx, %%rsp"
                             : : "r"(stacks[at]), "r"(fresh + (u64)at * (4 << 20)) : "rax", "rbx", "rcx", "r11", "memory");
            if (!level()) leave(PRIVILEGED);
        }
        leave(WENT_ON);
    }
    /* A call from the last bytes of the lower half: RCX would not be canonical. */
    if (same(attempt, "call-at-end")) {
        page = map((1ul << 47) - 4096, 4096, 7);
        if ((long)page < 0) leave(WENT_ON);
        page[4094] = 0x0f, page[4095] = 0x05;
        ((void (*)(void))(page + 4094))();
        goto after;
    }
    if (same(attempt, "call-near-end")) {
        page = map((1ul << 47) - 8192, 4096, 7);
        if ((long)page < 0) leave(WENT_ON);
        page[4094] = 0x0f, page[4095] = 0x05;
        ((void (*)(void))(page + 4094))();
        goto after;
    }
    if (same(attempt, "jump")) {
        ((void (*)(void))(1ul << value))();
        goto after;
    }
    if (same(attempt, "jump-high")) {
        ((void (*)(void))(-(1ul << value)))();
        goto after;
    }
    /* FS and GS anywhere: the entry must not use them. */
    if (same(attempt, "bases")) {
        static const u64 bases[] = {0, 0xffffffff80000000ul, 1ul << 46};
        for (u32 at = 0; at < 3; at++) {
            __asm__ volatile("wrgsbase %0" : : "r"(bases[at]));
            enter();
            u64 found;
            __asm__ volatile("rdgsbase %0" : "=r"(found));
            if (!level()) leave(PRIVILEGED);
            if (found != bases[at]) leave(WRONG);
        }
        leave(WENT_ON);
    }

    /* Far transfers and segments. */
    if (same(attempt, "far-jump") || same(attempt, "far-call")) {
        struct { u32 offset; unsigned short selector; } __attribute__((packed)) target = {(u32)(u64)landed, value};
        if (attempt[4] == 'j') __asm__ volatile("ljmp *%0" : : "m"(target) : "memory");
        else __asm__ volatile("lcall *%0" : : "m"(target) : "memory");
        goto after;
    }
    if (same(attempt, "far-return")) {
        __asm__ volatile("push %0\n push %1\n lretq" : : "r"(value), "r"(landed) : "memory");
        goto after;
    }
    if (same(attempt, "interrupt-return")) {
        __asm__ volatile("mov %%rsp, %%rax\n pushq $0x10\n push %%rax\n pushq $0x3202\n push %0\n push %1\n iretq"
                         : : "r"(value), "r"(landed) : "rax", "memory");
        goto after;
    }
    /* A local descriptor table at linear address 0 with a call gate in it. */
    if (same(attempt, "local-gate")) {
        for (u64 at = 0; at < 0x10000; at += 4096) {
            page = map(at ? at : 4096, 4096, 3);
            if ((long)page < 0) continue;
            u64 *table = (u64 *)page;
            for (int entry = 0; entry < 512; entry += 2) {
                u64 to = (u64)landed;
                table[entry] = (to & 0xffff) | 8ul << 16 | 0xecul << 40 | (to >> 16 & 0xffff) << 48;
                table[entry + 1] = to >> 32;
            }
        }
        struct { u32 offset; unsigned short selector; } __attribute__((packed)) target = {0, value | 7};
        __asm__ volatile("lcall *%0" : : "m"(target) : "memory");
        goto after;
    }
    if (same(attempt, "load-ds")) { __asm__ volatile("mov %0, %%ds" : : "r"(value)); goto after; }
    if (same(attempt, "load-es")) { __asm__ volatile("mov %0, %%es" : : "r"(value)); goto after; }
    if (same(attempt, "load-fs")) { __asm__ volatile("mov %0, %%fs" : : "r"(value)); goto after; }
    if (same(attempt, "load-gs")) { __asm__ volatile("mov %0, %%gs" : : "r"(value)); goto after; }
    if (same(attempt, "load-ss")) { __asm__ volatile("mov %0, %%ss" : : "r"(value)); goto after; }

    /* Instructions of a kernel. */
    ONE("cli", "cli") ONE("sti", "sti") ONE("hlt", "hlt") ONE("swapgs", "swapgs") ONE("clts", "clts")
    ONE("read-cr0", "mov %%cr0, %%rax") ONE("read-cr3", "mov %%cr3, %%rax") ONE("read-cr4", "mov %%cr4, %%rax")
    ONE("write-cr0", "mov %%rax, %%cr0") ONE("write-cr3", "mov %%rax, %%cr3") ONE("write-cr8", "mov %%rax, %%cr8")
    ONE("read-dr7", "mov %%dr7, %%rax") ONE("write-dr7", "mov %%rax, %%dr7")
    ONE("rdmsr", "mov $0xc0000082, %%ecx\n rdmsr") ONE("wrmsr", "mov $0xc0000082, %%ecx\n wrmsr")
    ONE("rdpmc", "xor %%ecx, %%ecx\n rdpmc") ONE("xsetbv", "xor %%ecx, %%ecx\n xgetbv\n xsetbv")
    ONE("lmsw", "lmsw %%ax") ONE("lldt", "lldt %%ax") ONE("ltr", "mov $0x38, %%eax\n ltr %%ax")
    ONE("lgdt", "lgdt (%%rsp)") ONE("lidt", "lidt (%%rsp)") ONE("invlpg", "invlpg (%%rsp)")
    ONE("invd", "invd") ONE("wbinvd", "wbinvd") ONE("sysretq", "lea landed(%%rip), %%rcx\n sysretq")
    ONE("sysexit", "lea landed(%%rip), %%rdx\n sysexit") ONE("sysenter", "sysenter") ONE("rsm", "rsm")
    ONE("monitor", "mov %%rsp, %%rax\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n monitor") ONE("mwait", "xor %%eax, %%eax\n xor %%ecx, %%ecx\n mwait")
    ONE("vmrun", ".byte 0x0f,0x01,0xd8") ONE("stgi", ".byte 0x0f,0x01,0xdc") ONE("vmxoff", ".byte 0x0f,0x01,0xc4")
    ONE("vmcall", "mov $9, %%eax\n .byte 0x0f,0x01,0xc1") ONE("vmmcall", "mov $9, %%eax\n .byte 0x0f,0x01,0xd9")
    ONE("sgdt", "sub $16, %%rsp\n sgdt (%%rsp)\n add $16, %%rsp") ONE("sidt", "sub $16, %%rsp\n sidt (%%rsp)\n add $16, %%rsp")
    ONE("sldt", "sldt %%eax") ONE("str", "str %%eax") ONE("smsw", "smsw %%eax")
    leave(NO_SUCH_ATTEMPT);
after:
    enter();
    say("went on\n");
    leave(level() ? WENT_ON : PRIVILEGED);
}
