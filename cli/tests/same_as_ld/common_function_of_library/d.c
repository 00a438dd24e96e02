#include <unistd.h>
int v(void){return 1;}
static __attribute__((constructor)) void f(void){write(1,"c\n",2);}
