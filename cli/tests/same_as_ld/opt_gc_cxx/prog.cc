#include <iostream>
#include <stdexcept>
#include <map>
struct Base { virtual ~Base() {} virtual int f() { return 1; } };
struct Derived : Base { int f() override { return 2; } int unused() { return 3; } };
struct Guard { const char *n; ~Guard() { std::cout << "left " << n << "\n"; } };
int missing();
int unused() { Guard g{"unused"}; return missing(); }
[[gnu::noinline]] int thrower(int x) { Guard g{"thrower"}; if (x) throw std::out_of_range("x"); return x; }
static std::map<int, std::string> global{{1, "one"}, {2, "two"}};
inline int inlined = thrower(0);
int main(int c, char **) {
    Base *b = new Derived;
    try { thrower(c); } catch (const std::exception &e) { std::cout << e.what() << " " << b->f() << global[2] << inlined << "\n"; }
    delete b;
}
