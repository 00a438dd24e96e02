__attribute__((section("s"))) const int end[0];
