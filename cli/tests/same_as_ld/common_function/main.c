#include <stdio.h>
int time; int ffs[4]; int main(){time=3;ffs[1]=2;printf("%d %d\n",time,ffs[1]);return 0;}
