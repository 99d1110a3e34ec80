"""A table that each worker opens before its first call, and reports on after its last."""

import sqlite3

table = None
found = 0


def start():
    global table
    table = sqlite3.connect(":memory:")
    table.execute("create table prices (name text primary key, price real)")
    table.executemany("insert into prices values (?, ?)", [("apple", 0.5), ("pear", 0.75)])


def price(name):
    global found
    row = table.execute("select price from prices where name = ?", (name,)).fetchone()
    found += row is not None
    return row and row[0]


def stop():
    print(f"{found} found", flush=True)
    table.close()
