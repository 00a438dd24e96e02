/* A set of sections that its library walks from end to end. */
#include <stdio.h>

struct entry {
    const char *name;
};

#define ENTRY(variable, text) \
    static struct entry variable __attribute__((section("registry"), used)) = {text}

ENTRY(first, "first");
ENTRY(second, "second");

extern struct entry __start_registry[], __stop_registry[];

void walk(void)
{
    for (struct entry *entry = __start_registry; entry < __stop_registry; entry++)
        puts(entry->name);
}
