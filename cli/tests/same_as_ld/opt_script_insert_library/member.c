__attribute__((section(".data.mine"))) int mine = 3;
int member(void) { return mine; }
