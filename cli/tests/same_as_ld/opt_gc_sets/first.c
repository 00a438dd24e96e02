__attribute__((section("sentinels"))) const int begin[0];
