/* 10 MiB of text that repeats itself now and then, through deflate and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int main(void)
{
    uLong size = 10 << 20;
    uLongf packed_size = compressBound(size), back_size = size;
    unsigned char *text = malloc(size), *packed = malloc(packed_size), *back = malloc(size);
    unsigned seed = 1;
    for (uLong i = 0; i < size; i++) {
        seed = seed * 1103515245 + 12345;
        text[i] = i > 4096 && seed >> 30 ? text[i - 4096] : 'a' + (seed >> 16) % 16;
    }
    if (compress2(packed, &packed_size, text, size, 6) || uncompress(back, &back_size, packed, packed_size) ||
        back_size != size || memcmp(text, back, size) || packed_size >= size)
        return 1;
    printf("%lu bytes there and back\n", back_size);
    return 0;
}
