#include "header.h"
const void *key_of_a() { return key(); }
const void *table_of_a() { return table(); }
void set_by_a() { set(); }
bool is_set_for_a() { return is_set(); }
