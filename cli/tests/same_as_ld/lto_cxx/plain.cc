#include "shared.h"
struct Plain : Base { std::string name() const override { counter(); inline_variable += 2; return "plain" + Base::name(); } };
Base *make_plain() { return new Plain; }
