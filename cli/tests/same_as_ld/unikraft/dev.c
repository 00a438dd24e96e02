#include "kernel.h"

static int mount_dev(int flags) { return flags; }
FS("dev", mount_dev);
static void tick_dev(void) { say("dev-tick "); }
HANDLER(tick, tick_dev, 1);
static void thread(void) { say("dev-thread "); }
THREAD_INIT(thread, 0);
