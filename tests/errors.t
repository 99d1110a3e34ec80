#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# doc/errors.md, the tests that cause each of its rows, and the texts in the sources agree.
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
import error_texts
from cli_tap import *


def none_of(rows, what):
    assert not rows, what + ":\n" + "\n".join(": ".join(row) for row in rows)


def texts_of_page():
    return "\n".join(text for _, text in error_texts.rows_of_page())


@test
def each_row_of_the_page_is_caused_by_a_test():
    rows = error_texts.rows_of_page()
    assert len(rows) > 300, f"the page has {len(rows)} rows"
    caused = set(error_texts.rows_of_tests())
    none_of([row for row in rows if row not in caused], "no test has these rows of doc/errors.md")


@test
def each_error_that_a_test_causes_is_on_the_page():
    rows = set(error_texts.rows_of_page())
    none_of([row for row in error_texts.rows_of_tests() if row not in rows], "doc/errors.md has not these rows of tests")


@test
def each_row_says_what_caused_it_and_what_to_do():
    none_of([row[:2] for row in error_texts.cells_of_page() if not row[2] or not row[3]], "doc/errors.md: empty cells")


@test
def each_text_in_the_sources_is_on_the_page_or_has_a_reason():
    page = texts_of_page()
    elsewhere = set(error_texts.elsewhere())
    missing = {row for row in error_texts.texts_of_sources()
               if not error_texts.is_said(row[1], page) and row not in elsewhere and (row[0], "*") not in elsewhere}
    none_of(sorted(missing), "texts that are neither in doc/errors.md nor in tests/errors-elsewhere")


@test
def each_text_that_is_elsewhere_is_in_the_sources_and_not_on_the_page():
    page = texts_of_page()
    there = set(error_texts.texts_of_sources())
    files = {(path, "*") for path, _ in there}
    listed = error_texts.elsewhere()
    none_of([row for row in listed if row not in there | files], "tests/errors-elsewhere has texts that are gone")
    none_of([row for row in listed if row in there and error_texts.is_said(row[1], page)],
            "tests/errors-elsewhere has texts that are on the page")


if __name__ == "__main__":
    main()
