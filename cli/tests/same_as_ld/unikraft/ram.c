#include "kernel.h"

SELF(libram);
extern __thread int depth;
static __thread char small[3] = "ab";
static int mount(int flags) { return flags * 10 + depth + small[0] - 'a' + _uk_libid_self_libram; }
FS("ram", mount);

static void first(void)
{
	say("ram-first ");
#ifdef LONGER
	for (int i = 0; i < LONGER; i++)
		say(i % 3 ? "" : "");
#endif
}
CTOR(first, 1);
static void soon(void) { say("ram-soon "); }
INIT(soon, 10);
static void tick(void) { say("ram-tick "); }
HANDLER(tick, tick, 2);
