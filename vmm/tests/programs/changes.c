/* Changes what it was given as input, and says what it finds. */
#include "told.h"
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

int main(int c, char **v)
{
    struct termios raw;
    struct winsize size;
    int group = 9;
    if (tcgetattr(0, &raw) == 0) {
        cfmakeraw(&raw);
        T(tcsetattr(0, TCSAFLUSH, &raw));
        T(tcgetattr(0, &raw));
        printf("%d\n", !(raw.c_lflag & ECHO));
        T(tcdrain(0));
        T(ioctl(0, TIOCGPGRP, &group));
        printf("group %d\n", group == 0 || group == getpgrp());
        /* A terminal that need not give a byte. */
        raw.c_cc[VMIN] = 0, raw.c_cc[VTIME] = 1;
        T(tcsetattr(0, TCSADRAIN, &raw));
        char byte;
        T(read(0, &byte, 1));
    }
    T(ioctl(0, TCSETSW, 8) == -1);
    T(fcntl(0, F_SETFL, O_NONBLOCK | O_APPEND));
    T(fcntl(0, F_GETFL) & (O_NONBLOCK | O_APPEND));
    T(fcntl(0, F_SETPIPE_SZ, 8192));
    return 0;
}
