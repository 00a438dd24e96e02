/* The library of touch8m: 4 MiB of text and 4 MiB of constants, no two pages alike. */
#define PAGES 1024

__asm__(".macro pages name\n"
        "  .balign 4096\n"
        "  .globl \\name\n"
        "\\name:\n"
        "  .set page, 0\n"
        "  .rept 1024\n"
        "    .set page, page + 1\n"
        "    .fill 1024, 4, ((page * 2654435761) ^ seed) & 0xffffffff\n"
        "  .endr\n"
        ".endm\n"
        ".text\n"
        ".set seed, 0x5bd1e995\n"
        "pages touch8m_text\n"
        ".section .rodata\n"
        ".set seed, 0x1b873593\n"
        "pages touch8m_rodata\n"
        ".text\n");

extern const volatile unsigned char touch8m_text[], touch8m_rodata[];

unsigned long touch8m_sum(void)
{
    unsigned long sum = 0;
    for (unsigned long page = 0; page < PAGES; page++)
        sum += touch8m_text[page * 4096] + touch8m_rodata[page * 4096 + 1];
    return sum;
}
