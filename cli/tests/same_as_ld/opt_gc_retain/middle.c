__attribute__((section("s"), used)) static const int dropped = 3; int nothing;
