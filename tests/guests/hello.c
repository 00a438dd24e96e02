/* The smallest useful guest: prints its arguments and a greeting. */
#include <stdio.h>

int main(int argc, char **argv)
{
    printf("hello from %s", argc > 0 ? argv[0] : "nobody");
    for (int i = 1; i < argc; i++)
        printf(" %s", argv[i]);
    printf("\n");
    return 0;
}
