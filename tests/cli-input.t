#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# What pycrew map reads: formats, files, and input that is no good.
import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *


def records(ended):
    return [json.loads(line) for line in ended.out.split(b"\n") if line]


def check_records(ended, expected, code=0):
    check(ended, code)
    equal(records(ended), expected, ended.err)


# ---- JSONL ----


@test
def jsonl_comes_from_stdin_and_files():
    write("a.jsonl", '1\n{"b": [2]}\n')
    write("b.ndjson", '"three"\n')
    check_records(run("map", ":echo", give="1\n2\n"), [1, 2])
    check_records(run("map", ":echo", "a.jsonl", "-", "b.ndjson", give="null\n"), [1, {"b": [2]}, None, "three"])


@test
def empty_input_and_blank_lines_are_no_records():
    for text in ["", "\n", "  \n\t\r\n\n", "\ufeff", "\ufeff\n"]:
        check(run("map", ":echo", give=text), 0, "", "")
    check_records(run("map", "--index", ":echo", give="\n1\n \n\n2\n"),
                  [{"index": 0, "result": 1}, {"index": 1, "result": 2}])


@test
def the_last_line_needs_no_end():
    check_records(run("map", ":echo", give="1\n2"), [1, 2])
    check_records(run("map", ":echo", give="\ufeff1\r\n[2]\r\n3\r"), [1, [2], 3])


@test
def ints_and_floats_are_exact():
    text = [str(2**70), "-" + "9" * 500, "0.1", "1e-300", "123456789012345678901234567890.5", "1E400", "-0.0"]
    for options in [[], ["--star"]]:
        lines = [f"[{t}]" if options else t for t in text]
        ended = check(run("map", *options, ":echo", give="\n".join(lines)), 0)
        equal([repr(r) for r in records(ended)], [repr(json.loads(t)) for t in text])


@test
def a_line_that_is_not_json_is_named_and_the_others_go_on():
    write("bad.jsonl", '1\n{"a": tru}\n2\n[1, 2\n3\n')
    ended = run("map", ":echo", "bad.jsonl")
    check(ended, 1, "1\n2\n3\n", ["bad.jsonl:2:7: not JSON: Expecting value",
                                  "bad.jsonl:4:6: not JSON: Expecting ',' delimiter",
                                  "2 of 5 records failed"])
    ended = run("map", "--star", ":arguments", give='[1]\n[1,\nnull\n{"a":1}\n[2] 3\nnul\n[4]')
    check(ended, 1, "[[1], {}]\n[[4], {}]\n",
          ["<stdin>:2:4: not JSON: Expecting value", "<stdin>:3: --star needs a list",
           "<stdin>:4: --star needs a list", "<stdin>:5:5: not JSON: Extra data",
           "<stdin>:6:1: not JSON: Expecting value"])


@test
def columns_count_characters():
    check(run("map", ":echo", give='["äöü", x]\n'), 1, "", "<stdin>:1:9: not JSON")
    check(run("map", "--star", ":echo", give='["äöü", x]\n'), 1, "", "<stdin>:1:9: not JSON")


@test
def an_exception_of_the_functions_own_json_is_none_of_the_input():
    check(run("map", ":fail_decoding", give="1\n"), 1, "", "<stdin>:1: json.decoder.JSONDecodeError")


@test
def text_that_is_not_utf8_is_named_with_line_and_byte():
    write("latin.jsonl", b'"a"\n"b\xe4"\n"c"\n"\xed\xa0\x80"\n"\xc0\xaf"\n')
    check(run("map", ":echo", "latin.jsonl"), 1, '"a"\n"c"\n',
          ["latin.jsonl:2:3: not UTF-8: byte 0xe4 at byte 3", "latin.jsonl:4:2: ", "latin.jsonl:5:2: "])


@test
def json_is_judged_and_split_as_python_does():
    """Mutated lines through --star: what json.loads takes comes back, what it refuses is refused."""
    generator = random.Random(5)
    seeds = ['[1, -2.5e3, "a\\u00e4\\n", true, false, null, [], {}, [[1], {"a": {"b": [2]}}]]', "[NaN, Infinity, -Infinity]",
             '["\\ud83d\\ude00", "\\\\", "\\"", ""]', "[0, 0.0, -0, 1e5, 1E+5, 12345678901234567890123]", '[ ]', '[ 1 , { "a" : 1 } ]']
    alphabet = '[]{},:"\\ue0123456789.-+eE truefalsn\t/abNI\x01ä'
    lines = list(seeds)
    while len(lines) < 6000:
        line = list(generator.choice(seeds))
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(line) + 1)
            kind = generator.randrange(3)
            if kind == 0:
                line[at:at] = generator.choice(alphabet)
            elif kind == 1:
                line[at:at + 1] = []
            else:
                line[at:at + 1] = generator.choice(alphabet)
        text = "".join(line)
        if text.strip(" \t\r\n"):
            lines.append(text)
    expected = []
    for index, line in enumerate(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        try:
            if isinstance(value, list):
                expected.append((index, json.dumps([value, {}], ensure_ascii=False).encode()))
        except ValueError:
            pass
    ended = run("map", "--star", "--index", "--errors", "errors", ":arguments", give="\n".join(lines).encode())
    got = [(json.loads(l)["index"], l.split(b'"result": ', 1)[1][:-1]) for l in ended.out.split(b"\n") if l]
    got = dict(got)
    for index, text in expected:
        if b"\\ud" in lines[index].encode() and index not in got:
            continue  # half a surrogate pair: no UTF-8 can say it
        equal(got.pop(index, None), text, lines[index])
    equal(got, {}, "accepted, though Python refuses it")


@test
def deep_nesting_is_an_error_and_no_crash():
    deep = "[" * 200_000 + "]" * 200_000
    check(run("map", "--star", ":kind", give=deep + "\n[1]\n"), 1, '"int"\n', "<stdin>:1")
    check(run("map", ":kind", give=deep + "\n1\n"), 1, '"int"\n', "<stdin>:1")


@test
def a_line_of_100_mb_comes_through():
    line = b'"' + b"x" * 100_000_000 + b'"\n'
    check(run("map", ":length", give=b'"a"\n' + line + b'"bc"\n'), 0, "1\n100000000\n2\n")


# ---- CSV and TSV ----


@test
def csv_rows_are_dicts_of_strings():
    write("a.csv", 'id,name\n007,"Smith, ""J"""\n2,\n')
    check_records(run("map", ":echo", "a.csv"), [{"id": "007", "name": 'Smith, "J"'}, {"id": "2", "name": ""}])
    write("a.tsv", "id\tname\n1\ta,b\n")
    check_records(run("map", ":echo", "a.tsv"), [{"id": "1", "name": "a,b"}])


@test
def infer_takes_json_numbers_only():
    write("a.csv", "a,b,c,d,e\n7,007,1.5e3,true,\n-1,0x1,NaN,True,null\n")
    check_records(run("map", "--infer", ":echo", "a.csv"),
                  [{"a": 7, "b": "007", "c": 1500.0, "d": True, "e": None},
                   {"a": -1, "b": "0x1", "c": "NaN", "d": "True", "e": "null"}])


@test
def star_and_kwargs_spread_rows():
    write("a.csv", "x,y\n1,2\n")
    check_records(run("map", "--star", ":arguments", "a.csv"), [[["1", "2"], {}]])
    check_records(run("map", "--kwargs", "--infer", ":arguments", "a.csv"), [[[], {"x": 1, "y": 2}]])


@test
def csv_is_read_as_python_reads_it():
    generator = random.Random(7)
    cells = ["", "a", " a ", "ä", '"', '""', ",", "\n", "\r\n", "x\ny", "\t", "1", "'", "\\", "a" * 300, "\u2028", "\0b"[1:]]
    for end, delimiter, name in [("\n", ",", "a.csv"), ("\r\n", ",", "b.csv"), ("\n", "\t", "c.tsv")]:
        header = ["id", "b c", 'q"q', "ä"]
        rows = [["%d" % i] + [generator.choice(cells) for _ in header[1:]] for i in range(2000)]
        text = io.StringIO()
        csv.writer(text, lineterminator=end, delimiter=delimiter).writerows([header] + rows)
        write(name, text.getvalue())
        check_records(run("map", ":echo", name), [dict(zip(header, row)) for row in rows])


@test
def csv_has_byte_order_marks_blank_lines_and_no_last_end():
    write("a.csv", "\ufeffa,b\r\n\r\n1,2\r\n\n3,4")
    check_records(run("map", ":echo", "a.csv"), [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}])
    write("only.csv", "a,b\n\r\n")
    write("empty.csv", "")
    write("blank.csv", "\n\n")
    equal(check(run("map", ":echo", "only.csv", "empty.csv", "blank.csv"), 0, "").err, "")


@test
def each_file_has_its_own_header():
    write("a.csv", "a\n1\n")
    write("b.csv", "b\n2\n")
    check_records(run("map", ":echo", "a.csv", "b.csv"), [{"a": "1"}, {"b": "2"}])


@test
def a_bad_row_is_named_by_its_line_and_the_others_go_on():
    write("bad.csv", b'a,b\n1,2\n3\n4,5,6\n"x\ny",7\n8,"9" 0\n10,in"ner\n\xff,11\n12,13\n')
    ended = run("map", ":echo", "bad.csv")
    check(ended, 1, None, ["bad.csv:3: 1 field, but the header has 2", "bad.csv:4: 3 fields",
                           "bad.csv:7:6: a quote out of place", "bad.csv:8:6: a quote out of place",
                           "bad.csv:9:1: not UTF-8", "5 of 8 records failed"])
    equal(records(ended), [{"a": "1", "b": "2"}, {"a": "x\ny", "b": "7"}, {"a": "12", "b": "13"}])


@test
def a_quote_that_is_never_closed_is_named_where_it_opens():
    write("bad.csv", 'a,b\n1,2\n3,"4\n5,6\n7,8\n')
    check(run("map", ":echo", "bad.csv"), 1, '{"a": "1", "b": "2"}\n', "bad.csv:3: a quote that is opened here")


@test
def a_header_of_no_use_spoils_its_file_only():
    write("twice.csv", "a,a\n1,2\n")
    write("latin.csv", b"\xe4,b\n1,2\n")
    write("good.csv", "a\n1\n")
    check(run("map", ":echo", "twice.csv", "latin.csv", "good.csv"), 2, '{"a": "1"}\n',
          ['twice.csv:1: the header has this name twice: "a"', "latin.csv:1:1: not UTF-8"])


# ---- lines, NUL, paths ----


@test
def lines_and_nul_are_strings():
    write("a.txt", "one\n\n[1]\nthree \r\nlast")
    check_records(run("map", ":echo", "a.txt"), ["one", "", "[1]", "three \r", "last"])
    check_records(run("map", "-i", "nul", ":echo", give="a\nb\0\0c"), ["a\nb", "", "c"])
    check_records(run("map", "-i", "lines", ":echo", give=b"a\0b\n"), ["a\0b"])
    check(run("map", "-i", "lines", ":echo", give=b"ok\nb\xffd\n"), 1, '"ok"\n', "<stdin>:2:2: not UTF-8")


@test
def with_files_each_path_is_a_record():
    write("a", "12345")
    write("b.csv", "")
    check(run("map", "--files", ":file_size", "a", "b.csv"), 0, "5\n0\n")
    check(run("map", "--files", ":file_size", "a", "missing"), 1, "5\n", ["missing: FileNotFoundError"])
    check(run("map", "--files", ":file_size"), 2, "", "--files needs FILEs")


# ---- files ----


@test
def gzip_is_unpacked_whatever_it_is_called():
    write("a.jsonl.gz", gzip.compress(b"1\n2\n"))
    write("b.csv.gz", gzip.compress(b"a\n3\n"))
    write("c.jsonl", gzip.compress(b"4\n") + gzip.compress(b"") + gzip.compress(b"5\n") + b"\0" * 600)
    check_records(run("map", ":echo", "a.jsonl.gz", "b.csv.gz", "c.jsonl", "-", give=gzip.compress(b"6\n")),
                  [1, 2, {"a": "3"}, 4, 5, 6])
    big = b"".join(b"%d\n" % i for i in range(300_000))
    write("big.jsonl.gz", gzip.compress(big, 1))
    check(run("map", ":echo", "big.jsonl.gz"), 0, big)


@test
def a_damaged_gzip_is_named_after_what_could_be_read():
    packed = gzip.compress(b"1\n2\n" + os.urandom(50_000).hex().encode())
    write("short.jsonl.gz", packed[:20000])
    write("bad.jsonl.gz", gzip.compress(b"7\n") + b"garbage")
    write("good.jsonl", "3\n")
    check(run("map", ":echo", "short.jsonl.gz", "bad.jsonl.gz", "good.jsonl"), 2, "1\n2\n7\n3\n",
          ["short.jsonl.gz:3: the compressed data end in the middle", "bad.jsonl.gz:2: the compressed data are damaged"])
    flipped = bytearray(packed)
    flipped[5000] ^= 255
    write("flipped.jsonl.gz", bytes(flipped))
    check(run("map", "-q", ":echo", "flipped.jsonl.gz"), 2, None, "flipped.jsonl.gz")


@test
def an_unreadable_file_is_named_before_anything_runs():
    write("a.jsonl", "1\n")
    for path, why in [("missing.jsonl", "No such file"), (".", "Is a directory")]:
        check(run("map", "-i", "jsonl", "--output", "out", ":echo", "a.jsonl", path), 2, "", f"{path}: {why}")
        assert not os.path.exists("out")


@test
def a_file_of_unknown_format_is_refused():
    write("data.parquet", "1\n")
    write("data", "1\n")
    check(run("map", ":echo", "data.parquet"), 2, "", "data.parquet: what format")
    check(run("map", "-i", "jsonl", ":echo", "data.parquet"), 0, "1\n")
    check(run("map", ":echo", "data"), 0, "1\n")


@test
def pipes_are_files_too():
    text = f"{' '.join(command('map', ':echo'))} <(echo 1) <(sleep 0.1; echo 2)"
    ended = subprocess.run(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    equal((ended.returncode, ended.stdout), (0, b"1\n2\n"), ended.stderr)


if __name__ == "__main__":
    main()
