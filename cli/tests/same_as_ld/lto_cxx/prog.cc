#include "shared.h"
#include <iostream>
int main() {
    std::map<std::string, int> words{{"one", 1}, {"two", twice(1)}};
    Base *all[] = {make_plain(), make_other()};
    for (Base *b : all) { std::cout << b->name() << ' ' << counter() << ' ' << ++inline_variable << '\n'; delete b; }
    try { thrower(static_cast<int>(words.size())); } catch (const std::runtime_error &e) { std::cout << e.what() << '\n'; }
    std::cout << twice(std::string("ab")) << words["two"] << '\n';
}
