struct plugin { const char *name; };
struct plugin cpu __attribute__((section("plugins"))) = { "cpu" };
