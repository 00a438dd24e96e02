#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
static int news, deletes;
void *operator new(std::size_t n) { news++; return std::malloc(n); }
void operator delete(void *p) noexcept { deletes++; std::free(p); }
void operator delete(void *p, std::size_t) noexcept { deletes++; std::free(p); }
int main() {
    { std::vector<std::string> v; for (int i = 0; i < 5; i++) v.push_back(std::string(100, 'x')); }
    std::printf("%d %d\n", news, news == deletes);
}
