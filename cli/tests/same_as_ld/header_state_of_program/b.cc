#include "header.h"
std::string b(int n) { return name(n) + " " + std::to_string(counter); }
