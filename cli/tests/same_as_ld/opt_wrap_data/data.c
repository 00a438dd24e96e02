int value = 1; int *const there = &value; __thread int mine = 3;
