/* The smallest useful guest: prints its arguments and a greeting. */
#include "guest.h"

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    printf("hello from %s", argc > 0 ? argv[0] : "nobody");
    for (int i = 1; i < argc; i++)
        printf(" %s", argv[i]);
    printf("\n");
    return guest_end(argc, argv);
}
