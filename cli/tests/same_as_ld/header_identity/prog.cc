#include <cstdio>
#include "header.h"
int (*handler)(int);
const void *key_of_a(), *key_of_c(), *table_of_a(), *table_of_c();
void set_by_a(), set_by_c();
bool is_set_for_a(), is_set_for_c();
int main() {
  set_by_a();
  std::printf("%d %d %d %d\n", key_of_a() == key_of_c(), table_of_a() == table_of_c(), is_set_for_a(), is_set_for_c());
  set_by_c();
  std::printf("%d %d %d %d\n", key_of_a() == key(), table_of_c() == table(), is_set_for_a(), is_set_for_c());
}
