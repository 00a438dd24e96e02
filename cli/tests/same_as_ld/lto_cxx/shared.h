#include <map>
#include <stdexcept>
#include <string>
#include <vector>
inline int counter() { static int n; return ++n; }
inline int inline_variable = 40;
struct Base { virtual ~Base() = default; virtual std::string name() const { return "base"; } };
template <typename T> T twice(T t) { return t + t; }
Base *make_plain();
Base *make_other();
void thrower(int);
