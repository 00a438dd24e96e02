struct two { int in_old; double more; } second = {2, 2.5};
int of_second(void) { return second.in_old; }
