/* Writes to the text of a library, which must end it. */
#include "guest.h"
#include <stdint.h>
#include <zlib.h>

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    printf("about to write to crc32\n");
    fflush(stdout);
    *(volatile unsigned char *)(uintptr_t)&crc32 = 0xcc;
    printf("still here\n");
    return guest_end(argc, argv);
}
