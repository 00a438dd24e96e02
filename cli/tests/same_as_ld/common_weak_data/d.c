#include <unistd.h>
__attribute__((weak)) int v=7;
static __attribute__((constructor)) void f(void){write(1,"c\n",2);}
