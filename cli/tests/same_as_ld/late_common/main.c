#include <stdio.h>
int v; int main(){printf("%d\n",v);}
