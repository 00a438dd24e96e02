#include "header.h"
std::string a(int n) { return name(n) + " " + std::to_string(counter); }
