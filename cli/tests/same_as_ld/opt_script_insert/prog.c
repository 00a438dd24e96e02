#include <stdint.h>
#include <stdio.h>
#include "table.h"
extern const call calls_start[], calls_end[];
extern const int words_start[], words_end[];
extern char nothing_start[], nothing_end[];
int member(void);
int of_the_program = 7;
__attribute__((section(".words"))) const int kept_word = 5;
__attribute__((section(".words"))) const int unneeded_word = 50;
static int second_of_prog(int n) { return n * 2; }
CALL(".calls.20", second_of_prog);
const int *volatile word = &kept_word;
int main(void) {
    int n = 1;
    for (const call *at = calls_start; at < calls_end; at++) n = (*at)(n);
    printf("%d calls, %d; %d words, %d; %d %d %d\n", (int)(calls_end - calls_start), n, (int)(words_end - words_start),
           *word, (int)(nothing_end - nothing_start), of_the_program + member(), (int)((uintptr_t)calls_start % 32));
    return 0;
}
