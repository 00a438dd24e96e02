#pragma once
static const int tag = 3;
static const char *const names[] = {"a", "b"};
static int own(int x) { return x + 1; }
extern int (*handler)(int);
inline const void *key() { return &tag; }
inline const void *table() { return names; }
inline void set() { handler = own; }
inline bool is_set() { return handler == own; }
