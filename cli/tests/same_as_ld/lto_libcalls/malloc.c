#include <stddef.h>
int allocations;
static char heap[1 << 20];
static size_t used;
void *malloc(size_t size) { allocations++; used = (used + 15) & ~15ul; void *p = heap + used; used += size; return p; }
void free(void *p) { (void)p; }
void *calloc(size_t n, size_t size) { return malloc(n * size); }
void *realloc(void *p, size_t size) { char *to = malloc(size); for (size_t i = 0; p && i < size; i++) to[i] = ((char *)p)[i]; return to; }
