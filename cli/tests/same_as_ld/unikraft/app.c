#include "kernel.h"

int mount_all(int flags);
extern int mounted;
extern __thread int depth;

static void own(void) { say("app "); }
INIT(own, 10);

int main(int argc, char **argv)
{
	number(mount_all(MOUNTED));
	number(depth);
	number(argc);
	for (int i = 1; i < argc; i++)
		say(argv[i]);
	say("\n");
	return mounted % 100;
}
