#include <stdio.h>
extern char __start_strs[],__stop_strs[]; void fa(),fb();int main(){fa();fb();printf("%ld %s\n",(long)(__stop_strs-__start_strs),__start_strs);}
