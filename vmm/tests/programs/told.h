/* Prints what calls return, so that two runs can be compared. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define close_range(first, last, flags) syscall(436, first, last, flags)

static void tell(const char *what, long value, int error)
{
    printf("%s = %ld %s\n", what, value, value == -1 ? strerror(error) : "");
    fflush(stdout);
}
#define T(call) do { errno = 0; long value_ = (long)(call); tell(#call, value_, errno); } while (0)
