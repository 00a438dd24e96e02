int inner(void) { return 1; }
extern int counted;
int answer(void) { counted++; return inner() + counted; }
