/* What the platform does: system calls, memory of the first thread, and what the boot loader tells. */
#include "kernel.h"

extern char _tls_start[], _etdata[], _tls_end[], _end[], __executable_start[];
void entry(int argc, char **argv);
SELF(libplat);

/* Filled in after the link. */
IN(".uk_bootinfo") __attribute__((aligned(8))) static char bootinfo[256];

static long call(long n, long a, long b, long c)
{
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

void leave(int status)
{
	for (;;)
		call(231, status, 0, 0);
}

void say(const char *text)
{
	long n = 0;
	while (text[n])
		n++;
	call(1, 1, (long)text, n);
}

void number(long number)
{
	char text[24], *at = text + sizeof text;
	unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;
	*--at = 0;
	do
		*--at = (char)('0' + rest % 10);
	while (rest /= 10);
	if (number < 0)
		*--at = '-';
	say(at);
	say(" ");
}

static char area[4096] __attribute__((aligned(32)));

/* The template, zeros, and the thread pointer that points to itself. */
static void first_thread(void)
{
	unsigned long stored = (unsigned long)(_etdata - _tls_start);
	unsigned long all = ((unsigned long)(_tls_end - _tls_start) + 7) & ~7UL;
	for (unsigned long i = 0; i < all; i++)
		area[i] = i < stored ? _tls_start[i] : 0;
	*(void **)(area + all) = area + all;
	if (call(158, 0x1002, (long)(area + all), 0))
		leave(90);
}

/* All of the image lies in one range. */
static int is_inside(const void *at)
{
	return (const char *)at >= __executable_start && (const char *)at < _end;
}

void plat_entry(long *stack)
{
	first_thread();
	say("boot ");
	number(_uk_libid_self_libplat);
	number(bootinfo[0] == 'B' ? bootinfo[1] : 0);
	number((long)bootinfo % 8);
	number((long)_tls_start % 4096);
	number(is_inside(bootinfo) && is_inside(area) && is_inside(plat_entry) && is_inside((void *)entry));
	number(is_inside(stack));
	entry((int)stack[0], (char **)(stack + 1));
	leave(0);
}
