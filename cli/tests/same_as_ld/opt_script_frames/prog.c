#include <stdio.h>
extern const char frames_start[], frames_end[];
int main(void) { printf("%d\n", frames_end > frames_start); return 0; }
