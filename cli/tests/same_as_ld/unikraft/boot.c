/* Walks the tables, and starts the application. */
#include "kernel.h"

extern const function uk_ctortab_start[], uk_ctortab_end[], uk_inittab_start[], uk_inittab_end[];
extern const function _uk_thread_inittab_start[], _uk_thread_inittab_end[], uk_event_tick[];
extern const char uk_libinfo_start[], uk_libinfo_end[];
int main(int argc, char **argv);
SELF(libboot);

#ifdef LONGER
IN(".uk_libinfo") static const char more = 'b';
#endif

static __thread long ticks = 7;
__thread int zero_of_boot;

static void early(void) { say("early "); }
CTOR(early, 0);

static void walk(const function *from, const function *to)
{
	for (; from != to; from++)
		(*from)();
	say("| ");
}

void entry(int argc, char **argv)
{
	number(_uk_libid_self_libboot);
	walk(uk_ctortab_start, uk_ctortab_end);
	walk(uk_inittab_start, uk_inittab_end);
	for (const function *at = uk_inittab_end; at > uk_inittab_start;)
		(*--at)();
	walk(_uk_thread_inittab_start, _uk_thread_inittab_end);
	for (const function *at = uk_event_tick; *at; at++)
		(*at)();
	number(++ticks);
	number(++zero_of_boot);
	for (const char *at = uk_libinfo_start; at < uk_libinfo_end; at++)
		number(*at);
	say("\n");
	leave(main(argc, argv));
}
