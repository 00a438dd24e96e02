/* An in-memory database: 5 000 orders, an index, joins and sums. */
#include "guest.h"
#include <sqlite3.h>
#include <stdlib.h>

static void check(sqlite3 *db, int code, const char *what)
{
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) {
        fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
        exit(1);
    }
}

static int print_row(void *unused, int columns, char **values, char **names)
{
    (void)unused;
    for (int i = 0; i < columns; i++)
        printf("%s%s=%s", i ? " " : "", names[i], values[i] ? values[i] : "NULL");
    printf("\n");
    return 0;
}

static void run(sqlite3 *db, const char *sql)
{
    check(db, sqlite3_exec(db, sql, print_row, NULL, NULL), sql);
}

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    sqlite3 *db;
    printf("sqlite %s\n", sqlite3_libversion());
    check(NULL, sqlite3_open(":memory:", &db), "open");
    run(db, "CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT);"
            "CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INT, amount REAL, note TEXT);"
            "BEGIN");
    sqlite3_stmt *insert;
    check(db, sqlite3_prepare_v2(db, "INSERT INTO orders VALUES(?,?,?,?)", -1, &insert, NULL),
          "prepare");
    for (int i = 1; i <= 5000; i++) {
        char note[64];
        int length = snprintf(note, sizeof note, "order %d of batch %d", i, i * 7919 % 97);
        sqlite3_bind_int(insert, 1, i);
        sqlite3_bind_int(insert, 2, i * 31 % 50 + 1);
        sqlite3_bind_double(insert, 3, (double)(i * 7919 % 10007) / 8.0);
        sqlite3_bind_text(insert, 4, note, length, SQLITE_TRANSIENT);
        check(db, sqlite3_step(insert), "insert");
        sqlite3_reset(insert);
    }
    sqlite3_finalize(insert);
    run(db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50)"
            "  INSERT INTO customers SELECT i, printf('customer %02d', i) FROM n;"
            "COMMIT;"
            "CREATE INDEX by_customer ON orders(customer, amount)");
    run(db, "SELECT count(*) AS n, sum(amount) AS total, max(note) AS last FROM orders");
    run(db, "SELECT name, count(*) AS n, round(avg(amount), 3) AS mean"
            "  FROM orders JOIN customers ON customers.id = customer"
            "  GROUP BY customer ORDER BY sum(amount) DESC LIMIT 5");
    run(db, "SELECT substr(note, -2) AS batch, count(*) AS n FROM orders"
            "  WHERE note LIKE '%batch 4%' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3");
    run(db, "UPDATE orders SET amount = amount * 2 WHERE customer = 7;"
            "DELETE FROM orders WHERE amount < 100");
    run(db, "SELECT count(*) AS left, sum(amount) AS total FROM orders");
    run(db, "PRAGMA integrity_check");
    check(db, sqlite3_close(db), "close");
    return guest_end(argc, argv);
}
