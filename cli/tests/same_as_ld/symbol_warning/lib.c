int careful(void) { return 4; }
const char text[] __attribute__((section(".gnu.warning.careful"))) = "careful is not careful";
const char other[] __attribute__((section(".gnu.warning.other"))) = "other is not said";
