#include <stdio.h>
#include <stdlib.h>
#include <string.h>
void *__real_malloc(size_t), __real_free(void *);
static int allocated, freed, compared;
void *__wrap_malloc(size_t n) { allocated++; return __real_malloc(n); }
void __wrap_free(void *p) { freed++; __real_free(p); }
int __real_strcmp(const char *, const char *);
int __wrap_strcmp(const char *a, const char *b) { compared++; return __real_strcmp(a, b); }
int main(int c, char **v) {
    char *p = malloc(100);
    char *s = strdup(v[0]);
    free(p);
    free(s);
    FILE *f = fopen("prog.c", "r");
    fclose(f);
    int same = strcmp(v[0], c > 5 ? "x" : v[0]);
    printf("%d %d %d %d\n", allocated, freed, compared, same);
    return 0;
}
