#include <stdio.h>
int v; int main(){v=4;printf("%d\n",v);}
