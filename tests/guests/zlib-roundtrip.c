/* Compresses and restores 1 MiB, half text and half noise, and prints sizes and checksums. */
#include "guest.h"
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

#define SIZE (1u << 20)

static uint32_t noise(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void fill(unsigned char *data)
{
    static const char *const words[] = {"page ", "segment ", "extent ", "slot ", "lease ",
                                        "mark ", "sweep ",   "pool ",   "guest ", "window "};
    uint32_t state = 2463534242u;
    size_t at = 0;
    while (at < SIZE / 2) {
        const char *word = words[noise(&state) % 10];
        size_t length = strlen(word);
        if (length > SIZE / 2 - at)
            length = SIZE / 2 - at;
        memcpy(data + at, word, length);
        at += length;
    }
    while (at < SIZE)
        data[at++] = (unsigned char)noise(&state);
}

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    unsigned char *data = malloc(SIZE), *restored = malloc(SIZE);
    uLong bound = compressBound(SIZE);
    unsigned char *packed = malloc(bound);
    if (!data || !restored || !packed)
        return fprintf(stderr, "no memory\n"), 1;
    fill(data);
    printf("zlib %s\n", zlibVersion());
    for (int level = 1; level <= 9; level += 4) {
        uLongf packed_size = bound, restored_size = SIZE;
        if (compress2(packed, &packed_size, data, SIZE, level) != Z_OK)
            return fprintf(stderr, "compress failed\n"), 1;
        memset(restored, 0, SIZE);
        if (uncompress(restored, &restored_size, packed, packed_size) != Z_OK)
            return fprintf(stderr, "uncompress failed\n"), 1;
        if (restored_size != SIZE || memcmp(data, restored, SIZE) != 0)
            return fprintf(stderr, "restored bytes differ\n"), 1;
        printf("level %d: %lu bytes, crc %08lx, adler %08lx\n", level, packed_size,
               crc32(0, packed, (uInt)packed_size), adler32(1, restored, SIZE));
    }
    return guest_end(argc, argv);
}
