_Alignas(8192) int page = 1;
_Alignas(65536) static char more[10] = "more";
int tentative[3] __attribute__((aligned(16384)));
static const int table[] __attribute__((aligned(32768))) = {5, 6};
char *get_more(void) { return more; }
const int *get_table(void) { return table; }
