#include <stdlib.h>
static int compare(const void *a, const void *b) {
  if (*(const int *)a != *(const int *)b) abort();
  return 0;
}
int main(void) {
  int numbers[] = {3, 1, 2};
  qsort(numbers, 3, sizeof *numbers, compare);
  return numbers[0];
}
