__attribute__((section("sentinels"))) const int end[0];
