int vendor_driver_open(void);
struct plugin { const char *name; };
struct plugin gpu __attribute__((section("plugins"))) = { "gpu" };
int gpu_start(void) { return vendor_driver_open(); }
