typedef int (*call)(int);
#define CALL(section_, f) __attribute__((section(section_), used, aligned(8))) static const call call_of_##f = f
