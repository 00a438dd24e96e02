/* sql FILE STATEMENTS: runs them and prints the rows as SQLite's shell does. */
#include <sqlite3.h>
#include <stdio.h>

static int row(void *unused, int count, char **values, char **names)
{
    for (int i = 0; i < count; i++)
        printf("%s%s", i ? "|" : "", values[i] ? values[i] : "");
    puts("");
    return 0;
}

int main(int argc, char **argv)
{
    sqlite3 *database;
    char *error = NULL;
    if (argc != 3 || sqlite3_open(argv[1], &database) || sqlite3_exec(database, argv[2], row, NULL, &error)) {
        fprintf(stderr, "sql: %s\n", error ? error : "usage: sql FILE STATEMENTS");
        return 1;
    }
    return sqlite3_close(database) != SQLITE_OK;
}
