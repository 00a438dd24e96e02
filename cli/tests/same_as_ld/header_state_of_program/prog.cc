#include "header.h"
#include <cstdio>
std::string a(int), c(int);
int main() {
  std::printf("%s %d\n", name(0).c_str(), counter);
  std::printf("%s\n", a(1).c_str());
  std::printf("%s\n", c(2).c_str());
  std::printf("%s %d\n", name(3).c_str(), counter);
}
