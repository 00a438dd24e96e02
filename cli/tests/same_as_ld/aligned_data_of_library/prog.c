#include <stdint.h>
#include <stdio.h>
extern int page, small, large[], tentative[];
_Alignas(32768) int own = 4;
char *get_more(void);
const int *get_table(void);
#define REST(x, n) ((uintptr_t)(x) % (n))
int main(void) {
  large[1] = tentative[2] = page;
  printf("%d %d %d %d %s %d %d\n", page, small, large[0], large[1], get_more(), get_table()[1], own);
  printf("%lu %lu %lu %lu %lu %lu\n", REST(&page, 8192), REST(get_more(), 65536), REST(tentative, 16384),
         REST(get_table(), 32768), REST(large, 131072), REST(&own, 32768));
  return 0;
}
