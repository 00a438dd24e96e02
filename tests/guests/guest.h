/* What every guest can be asked, by its first argument: to wait before its work (--wait: says
 * "waiting" on standard error and reads a byte), or to hold still after it (--hold: says "holding"
 * and sleeps until it is killed). */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static inline int guest_asked(int argc, char **argv, const char *option)
{
    return argc > 1 && strcmp(argv[1], option) == 0;
}

static inline void guest_begin(int argc, char **argv)
{
    char byte;
    if (guest_asked(argc, argv, "--wait")) {
        fputs("waiting\n", stderr);
        if (read(0, &byte, 1) < 0)
            perror("waiting");
    }
}

static inline int guest_end(int argc, char **argv)
{
    if (guest_asked(argc, argv, "--hold")) {
        puts("holding");
        fflush(stdout);
        for (;;)
            pause();
    }
    return 0;
}
