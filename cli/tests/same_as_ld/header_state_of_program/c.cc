#include "header.h"
std::string c(int n) { return name(n) + " " + std::to_string(counter); }
