int __wrap_h(void) { return 33; }
