__attribute__((section("s"))) const int begin[0];
