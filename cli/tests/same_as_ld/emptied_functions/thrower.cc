int depth(int n);
__attribute__((noinline)) int guarded(int n) {
  try {
    return depth(n);
  } catch (int found) {
    throw found + 0.5;
  }
}
