#include "shared.h"
struct Other : Base { std::string name() const override { counter(); return "other" + twice(std::string("!")); } };
Base *make_other() { return new Other; }
void thrower(int n) { if (n) throw std::runtime_error("thrown " + std::to_string(twice(n))); }
