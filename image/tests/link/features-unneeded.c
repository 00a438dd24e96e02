/* A member that no program needs: an ordinary link leaves it out, so neither may what it lacks
 * be an error, nor may its constructor run. */
int defined_nowhere(void);
extern int data_nowhere;

__attribute__((constructor)) static void construct(void) { __builtin_trap(); }

int unneeded(void) { return defined_nowhere() + data_nowhere; }
