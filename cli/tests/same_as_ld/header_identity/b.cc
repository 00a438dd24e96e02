#include "header.h"
const void *key_of_b() { return key(); }
const void *table_of_b() { return table(); }
void set_by_b() { set(); }
bool is_set_for_b() { return is_set(); }
