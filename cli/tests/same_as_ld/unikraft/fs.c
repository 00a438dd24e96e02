/* A library that others register with. */
#include "kernel.h"

extern const struct fs uk_fslist_start[], uk_fslist_end[];
SELF(libfs);
EVENT(tick);

__thread int depth = 3;
int mounted;

static void late(void) { say("fs-late "); }
INIT(late, 30);
static void thread(void) { say("fs-thread "); }
THREAD_INIT(thread, 1);

int mount_all(int flags)
{
	for (const struct fs *fs = uk_fslist_start; fs < uk_fslist_end; fs++) {
		say(fs->name);
		say(" ");
		mounted += fs->mount(flags + depth++);
	}
	number(_uk_libid_self_libfs);
	return mounted;
}
