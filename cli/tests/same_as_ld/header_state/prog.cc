#include <cstdio>
#include <string>
std::string a(int), c(int);
int main() { std::printf("%s\n", a(1).c_str()); std::printf("%s\n", c(2).c_str()); std::printf("%s\n", a(3).c_str()); }
