#include <stdio.h>
#define JOIN(a, b) a##b
#define F(n) JOIN(f, n)
static void say(const char *what) { printf("%s%d ", what, N); }
__attribute__((constructor(200))) static void early(void) { say("early"); }
__attribute__((constructor)) static void usual(void) { say("usual"); }
__attribute__((destructor(200))) static void late(void) { say("late"); }
__attribute__((destructor)) static void end(void) { say("end"); }
static void old(void) { say("old"); }
__attribute__((section(".ctors"), used)) static void (*const ctor)(void) = old;
__attribute__((section(".dtors"), used)) static void (*const dtor)(void) = old;
__attribute__((section("order"), used)) static const int number = N;
int F(NEXT)(void);
int F(N)(void) { return F(NEXT)(); }
