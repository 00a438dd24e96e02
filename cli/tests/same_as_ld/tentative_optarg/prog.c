#include <stdio.h>
int getopt(int, char *const *, const char *);
char *optarg;
int optind, opterr;
int main(void) {
    char *v[] = {"prog", "-o", "name", "-v", "rest", 0};
    int c;
    while ((c = getopt(5, v, "o:v")) != -1)
        if (c == 'o') printf("o=%s ", optarg ? optarg : "(null)");
    printf("optind=%d opterr=%d\n", optind, opterr);
    return 0;
}
