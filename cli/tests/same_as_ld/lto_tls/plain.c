extern __thread int of_other, of_prog; __thread int of_plain = 300; int sum(void) { return of_other + of_prog + of_plain; }
