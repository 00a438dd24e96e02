#include "header.h"
const void *key_of_c() { return key(); }
const void *table_of_c() { return table(); }
void set_by_c() { set(); }
bool is_set_for_c() { return is_set(); }
