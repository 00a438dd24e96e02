#include <stdio.h>
extern int mine_start[], mine_end[];
int member(void);
int main(void) { printf("%d %d\n", (int)(mine_end - mine_start), member()); return 0; }
