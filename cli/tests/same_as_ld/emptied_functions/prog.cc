#include <cstdio>
int guarded(int n);
__attribute__((noinline)) int depth(int n) {
  if (n > 3) throw n;
  return depth(n + 1) + 1;
}
int main() {
  try {
    std::printf("%d\n", guarded(1));
  } catch (double found) {
    std::printf("caught %g\n", found);
  }
}
