#include <elf.h>
#include <stdio.h>
extern const Elf64_Ehdr __ehdr_start;
int data = 1;
int main(void) {
    const Elf64_Phdr *all = (const Elf64_Phdr *)((const char *)&__ehdr_start + __ehdr_start.e_phoff);
    int right = 1, own = 0;
    for (int i = 0; i < __ehdr_start.e_phnum; i++) {
        const Elf64_Phdr *p = &all[i];
        if (p->p_type != PT_LOAD || p->p_vaddr >= 0x10000000) continue;
        own++;
        right &= p->p_align == 0x10000 && (p->p_vaddr - p->p_offset) % 0x10000 == 0;
    }
    printf("%d %d\n", right && own >= 3, data);
    return 0;
}
