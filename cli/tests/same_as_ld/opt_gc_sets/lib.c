#include <stdio.h>
#include "set.h"
void entry(void);
int entry2(void);
IN(walked) g = 2;
IN(sentinels) h = 6;
void library(void) { entry(); printf("%d\n", entry2()); }
