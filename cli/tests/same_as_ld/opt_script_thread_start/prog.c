#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/auxv.h>

extern const char template[] __attribute__((weak)), template_end[] __attribute__((weak));
extern const int words_start[] __attribute__((weak)), words_end[] __attribute__((weak));
__attribute__((section(".words"))) int word = 3;
__thread int stored = 7, zeros;
const volatile char odd[3] = "ab";

int main(void)
{
	const Elf64_Phdr *header = (const Elf64_Phdr *)getauxval(AT_PHDR);
	unsigned long count = getauxval(AT_PHNUM);
	uint64_t start = 0;
	for (unsigned long i = 0; i < count; i++)
		if (header[i].p_type == PT_TLS)
			start = header[i].p_vaddr;
	printf("%d %d, %d %d\n", stored++, zeros++, (int)(words_end - words_start), word + odd[0]);
	printf("%d\n", (int)(start % 4096));
	if (template)
		printf("%d %d\n", start == (uintptr_t)template, template_end - template >= (long)sizeof stored);
	else
		printf("%d\n", (int)(start % 8192));
	return 0;
}
