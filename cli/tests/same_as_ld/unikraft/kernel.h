/* Tables and symbols as Unikraft's libraries have them. */
typedef void (*function)(void);
#define IN(name) __attribute__((used, section(name)))
#define CTOR(f, priority) static const function f##_ctor IN(".uk_ctortab" #priority) = f
#define INIT(f, priority) static const function f##_init IN(".uk_inittab" #priority) = f
#define THREAD_INIT(f, priority) static const function f##_thread IN(".uk_thread_inittab" #priority) = f
/* Handlers lie between the event itself and its end, by their priorities. */
#define EVENT(name) const function uk_event_##name[0] IN(".uk_event_" #name); \
	static const function name##_end IN(".uk_event_" #name "~~") = 0
#define HANDLER(name, f, priority) static const function f##_handler IN(".uk_event_" #name "~" #priority) = f

struct fs { const char *name; int (*mount)(int); };
#define FS(name, mount) static const struct fs mount##_fs IN(".uk_fs_list") = {name, mount}

/* Which library one is, told by the one that knows them all. */
#define SELF(library) extern const unsigned short _uk_libid_self_##library

void say(const char *text);
void number(long number);
void leave(int status) __attribute__((noreturn));
