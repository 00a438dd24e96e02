#include <stdio.h>
struct plugin { const char *name; };
extern struct plugin __start_plugins[], __stop_plugins[];
void list(void) { for (struct plugin *p = __start_plugins; p < __stop_plugins; p++) puts(p->name); }
