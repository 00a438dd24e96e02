int hook(void);
int plain(void) { return hook(); }
