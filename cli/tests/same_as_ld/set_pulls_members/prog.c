void list(void);
extern struct plugin { const char *name; } cpu;
int main(void) { list(); return cpu.name == 0; }
