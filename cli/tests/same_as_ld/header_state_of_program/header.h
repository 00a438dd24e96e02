#pragma once
#include <string>
static const std::string prefix = "prefix";
static int counter;
inline std::string name(int n) { counter++; return prefix + std::to_string(n); }
