#define IN(set) __attribute__((section(#set), used)) static const int
