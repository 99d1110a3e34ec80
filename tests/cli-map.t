#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew map: results, failures, progress, signals.
import csv
import errno
import io
import json
import os
import pty
import random
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *


def numbers(count, start=0):
    return "".join(f"{i}\n" for i in range(start, start + count))


# ---- results ----


@test
def results_come_in_the_order_of_the_input():
    check(run("map", "-j", 4, ":echo", give=numbers(200_000)), 0, numbers(200_000))
    check(run("map", "-j", 4, ":first_is_slow", give=numbers(1000)), 0, numbers(1000))


@test
def unordered_results_come_as_they_finish():
    ended = check(run("map", "-j", 2, "-u", ":first_is_slow", give=numbers(3000)), 0)
    lines = ended.lines()
    equal(sorted(map(int, lines)), list(range(3000)))
    assert lines[0] != "0", "the slow first record came first"


@test
def index_and_input_come_with_each_result():
    write("in.jsonl", '\n{"a": 1}\r\n[2]\n')
    check(run("map", "--index", "--with-input", ":kind", "in.jsonl"), 0,
          '{"index": 0, "input": {"a": 1}, "result": "dict"}\n{"index": 1, "input": [2], "result": "list"}\n')
    check(run("map", "--with-input", ":length", give="[1,\r2]\n"), 0, '{"input": [1, 2], "result": 2}\n')
    check(run("map", "-i", "lines", "--with-input", ":length", give='a"b\n'), 0, '{"input": "a\\"b", "result": 3}\n')
    check(run("map", "-u", "--index", ":echo", give="7\n"), 0, '{"index": 0, "result": 7}\n')


@test
def lines_and_nul_write_strings_as_they_are():
    text = '"a b"\n[1]\nnull\n"\\u00e4\\""\n'
    check(run("map", "-o", "lines", ":echo", give=text), 0, 'a b\n[1]\nnull\nä"\n')
    check(run("map", "-o", "nul", ":echo", give='"a\\nb"\n1\n'), 0, "a\nb\0" + "1\0")
    check(run("map", "-o", "lines", "--index", "--with-input", "-i", "lines", ":kind", give="x\ny"), 0,
          "0\tx\tstr\n1\ty\tstr\n")


@test
def what_a_format_cannot_say_fails_its_record():
    check(run("map", "-o", "lines", ":echo", give='"a\\nb"\n"c"\n'), 1, "c\n", "<stdin>:1: a line end")
    check(run("map", "-o", "nul", ":echo", give='"a\\u0000b"\n"c"\n'), 1, "c\0", "<stdin>:1: a NUL")
    check(run("map", "-o", "csv", ":other_keys", give=numbers(3)), 1, "n\n0\n1\n", "<stdin>:3: the result has not the same keys")
    check(run("map", "-o", "csv", ":echo", give="[1,2]\n3\n[4]\n"), 1, "1,2\n4\n", "<stdin>:2: the result is no row")


@test
def csv_has_the_first_results_keys_as_its_header():
    ended = check(run("map", "-o", "csv", ":row", give=numbers(2)), 0)
    equal(ended.out.decode(), 'n,text,none\n0,"a,""0""",\n1,"a,""1""",\n')
    equal(list(csv.DictReader(io.StringIO(ended.out.decode())))[1], {"n": "1", "text": 'a,"1"', "none": ""})
    check(run("map", "-o", "tsv", "--index", "--with-input", ":row", give="5\n"), 0,
          'index\tinput\tn\ttext\tnone\n0\t5\t5\t"a,""5"""\t\n')
    check(run("map", "-o", "csv", ":pair", give=numbers(2)), 0, "0,0\n1,1\n")
    check(run("map", "-o", "csv", ":echo", give='"a,b"\nnull\n{}\n'), 1, '"a,b"\n""\n')


@test
def csv_in_and_csv_out_is_the_same():
    generator = random.Random(3)
    cells = ["a", "", 'q"', "x,y", "l\nm", " s ", "ä"]
    text = io.StringIO()
    rows = [[generator.choice(cells) for _ in range(3)] for _ in range(500)]
    csv.writer(text, lineterminator="\n").writerows([["a", "b", "c"]] + rows)
    write("in.csv", text.getvalue())
    check(run("map", ":echo", "in.csv", "--output", "out.csv"), 0, "")
    equal(list(csv.reader(io.StringIO(read("out.csv").decode(), newline=""))), [["a", "b", "c"]] + rows)


@test
def nan_is_a_literal_null_or_an_error():
    literal = '[NaN, Infinity, -Infinity, "NaN", 1]\n'
    check(run("map", ":nan", "--star", give="[]\n"), 0, literal)
    check(run("map", "--nan", "literal", ":nan", "--star", give="[]\n"), 0, literal)
    check(run("map", "--nan", "null", ":nan", "--star", give="[]\n"), 0, '[null, null, null, "NaN", 1]\n')
    check(run("map", "--nan", "error", ":nan_if_odd", give=numbers(3)), 1, "0\n2\n", "<stdin>:2: the result holds NaN")


@test
def bytes_are_base64():
    import base64

    ended = check(run("map", "--star", ":raw_bytes", give="[]\n"), 0)
    equal(base64.b64decode(json.loads(ended.out)), bytes(range(256)))


@test
def kwargs_become_keyword_arguments():
    check(run("map", "--kwargs", ":arguments", give='{"a": 1, "\\u00e4\\n": {"b": 2}}\n{}\n'), 0,
          '[[], {"a": 1, "ä\\n": {"b": 2}}]\n[[], {}]\n')
    check(run("map", "--kwargs", ":arguments", give='[1]\n{"a\\u0000": 1}\n{"\\ud800": 1}\n{"a": 1,}\n'), 1, "",
          ["<stdin>:1: --kwargs needs a dict", "<stdin>:2: no argument can be named", "<stdin>:3: no argument", "<stdin>:4:9: not JSON"])


@test
def output_goes_to_a_file_that_must_be_new():
    check(run("map", "--output", "out.jsonl", ":echo", give=numbers(5)), 0, "")
    equal(read("out.jsonl").decode(), numbers(5))
    check(run("map", "--output", "out.jsonl", ":echo", give=numbers(2)), 2, "", "out.jsonl exists; --force overwrites")
    equal(read("out.jsonl").decode(), numbers(5))
    check(run("map", "--output", "out.jsonl", "--force", ":echo", give=numbers(2)), 0, "")
    equal(read("out.jsonl").decode(), numbers(2))
    check(run("map", "--output", "no/such/folder", ":echo"), 2, "", "no/such/folder: No such file")


@test
def results_and_errors_do_not_share_a_file():
    check(run("map", "--output", "both", "--errors", "both", ":echo"), 2, "", "both exists")
    write("both", "old")
    check(run("map", "--output", "both", "--errors", "both", "--force", ":echo"), 2, "", "cannot go to the same file")
    equal(read("both"), b"old")


@test
def a_start_that_fails_leaves_files_as_they_were():
    write("kept", "old")
    check(run("map", "--preload", "no_such_module", "--output", "new", ":echo"), 3, "")
    check(run("map", "--preload", "no_such_module", "--output", "kept", "--force", ":echo"), 3, "")
    equal((os.path.exists("new"), read("kept")), (False, b"old"))


@test
def the_input_is_not_overwritten():
    write("a.jsonl", numbers(3))
    check(run("map", "--output", "a.jsonl", "--force", ":echo", "a.jsonl"), 2, "", "a.jsonl: is input and output")
    check(run("map", "--errors", "a.jsonl", "--force", ":echo", "a.jsonl"), 2, "", "a.jsonl: is input and output")
    with open("a.jsonl", "ab") as out:
        check(end(start("map", ":echo", "a.jsonl", stdout=out)), 2, None, "is input and output")
    equal(read("a.jsonl").decode(), numbers(3))


# ---- groups, lists of results ----


@test
def whole_calls_with_lists_of_records():
    write("in.jsonl", numbers(10))
    check(run("map", "--whole", 4, ":echo", "in.jsonl"), 0, "[0, 1, 2, 3]\n[4, 5, 6, 7]\n[8, 9]\n")
    check(run("map", "--whole", 4, "--index", ":length", "in.jsonl"), 0,
          '{"index": 0, "result": 4}\n{"index": 4, "result": 4}\n{"index": 8, "result": 2}\n')
    check(run("map", "--whole", 2, "--with-input", "-i", "lines", ":length", give='a"\nb\nc'), 0,
          '{"input": ["a\\"", "b"], "result": 2}\n{"input": ["c"], "result": 1}\n')
    check(run("map", "--whole", 100, ":length", give=""), 0, "")
    write("in.csv", "a\n1\n2\n")
    check(run("map", "--whole", 3, ":echo", "in.csv", "in.jsonl"), 0, '[{"a": "1"}, {"a": "2"}, 0]\n[1, 2, 3]\n[4, 5, 6]\n[7, 8, 9]\n')
    check(run("map", "--files", "--whole", 2, ":echo", "in.csv", "x", "y"), 0, '["in.csv", "x"]\n["y"]\n')
    check(run("map", "--whole", 3, "--star", ":echo"), 2, "", "--whole gives one list")


@test
def flatten_writes_a_lists_items_as_results():
    check(run("map", "--flatten", ":echo", give='[1, "a", [2]]\n[]\n[null]\n'), 0, '1\n"a"\n[2]\nnull\n')
    check(run("map", "--flatten", "--index", "--with-input", ":pair", give="7\n"), 0,
          '{"index": 0, "input": 7, "result": 7}\n{"index": 0, "input": 7, "result": "7"}\n')
    check(run("map", "--flatten", ":echo", give='1\n[2]\n'), 1, "2\n", "<stdin>:1: --flatten needs a list as the result")
    check(run("map", "--flatten", "-o", "lines", ":echo", give='["a", "b\\nc"]\n["d"]\n'), 1, "d\n", "<stdin>:1: a line end")
    check(run("map", "--flatten", "-o", "csv", ":echo", give='[{"a": 1}, {"b": 1}]\n[{"b": 2}]\n'), 1, "b\n2\n", "not the same keys")


@test
def a_group_that_is_flattened_gives_each_record_its_result():
    words = ["map", "--whole", 3, "--flatten"]
    check(run(*words, ":echo", give=numbers(7)), 0, numbers(7))
    check(run(*words, ":group_of_one_less", give=numbers(7)), 0, "1\n2\n4\n5\n")
    check(run(*words, "--index", "--with-input", ":echo", give='"a"\n\n2\n'), 0,
          '{"index": 0, "input": "a", "result": "a"}\n{"index": 1, "input": 2, "result": 2}\n')
    check(run(*words, "--index", ":group_of_one_less", give=numbers(3)), 1, "", "<stdin>:1 to <stdin>:3: 2 results for 3 records")


@test
def a_group_fails_as_a_whole_but_bad_records_alone():
    lines = numbers(9).splitlines()
    lines[1] = "[?"
    check(run("map", "--whole", 3, "--errors", "errors", ":group_fails", give="\n".join(lines)), 1, "[0, 2, 3]\n[4, 5, 6]\n",
          ["<stdin>:2:2: not JSON", "<stdin>:8 to <stdin>:9: ValueError: seven", "3 of 9 records failed"])
    errors = sorted((e["index"], e["byte_offset"], e["line"], e["input"]) for e in map(json.loads, read("errors").splitlines()))
    equal(errors, [(1, 2, 2, "[?"), (7, 15, 8, 7), (8, 17, 9, 8)])


@test
def a_group_waits_for_its_records_and_no_longer():
    process = start("map", "--whole", 2, ":echo")
    process.stdin.write(b"1\n2\n3\n")
    process.stdin.flush()
    equal(read_line(process.stdout.fileno()), b"[1, 2]\n")
    check(end(process, b""), 0, "[3]\n")


# ---- failed records again ----


@test
def failed_records_are_run_again_under_their_own_names():
    write("in.csv", "n,text\n" + "".join(f'{i},"a\n{i}"\n' for i in range(6)))
    check(run("map", "-q", "--errors", "first", ":fail", "in.csv"), 1, "")
    check(run("map", "--from-errors", "first", "--index", ":kind"), 0, "".join(f'{{"index": {i}, "result": "dict"}}\n' for i in range(6)))
    ended = check(run("map", "--from-errors", "first", "--errors", "second.gz", "--kwargs", ":fail"), 1, "", "in.csv:2: TypeError")
    import gzip

    keep = ("index", "byte_offset", "file", "line", "input")
    first = [[json.loads(line)[key] for key in keep] for line in read("first").splitlines()]
    second = [[json.loads(line)[key] for key in keep] for line in gzip.decompress(read("second.gz")).splitlines()]
    equal(sorted(first), sorted(second))
    check(run("map", "--from-errors", "second.gz", "--kwargs", ":arguments", "-o", "lines", "-j", 1), 0)


@test
def a_group_that_failed_is_run_again_one_by_one():
    write("first.jsonl", numbers(8))
    write("second.jsonl", numbers(2, 8))
    check(run("map", "-q", "--whole", 5, "--errors", "errors", ":group_fails", "first.jsonl", "second.jsonl"), 1, "[0, 1, 2, 3, 4]\n")
    check(run("map", "--from-errors", "errors", "--whole", 5, ":group_fails"), 1, "", "first.jsonl:6 to second.jsonl:2: ValueError: seven")
    check(run("map", "--from-errors", "errors", "--whole", 1, "--index", "--flatten", ":group_fails"), 1,
          "".join(f'{{"index": {i}, "result": {i}}}\n' for i in (5, 6, 8, 9)), "first.jsonl:8: ValueError: seven")


@test
def what_could_not_be_read_fails_again():
    write("in.jsonl", b'1\n{"a": tru}\n"\xff"\n')
    check(run("map", "-q", "-j", 1, "--errors", "first", ":fail", "in.jsonl"), 1, "")
    check(run("map", "--from-errors", "first", "--errors", "second", ":echo"), 1, "1\n",
          ["in.jsonl:2: Expecting value", "in.jsonl:3:2: not UTF-8", "2 of 3 records failed"])
    equal(sorted((e["index"], e["input"], e["readable"]) for e in map(json.loads, read("second").splitlines())),
          [(1, '{"a": tru}', False), (2, '"\ufffd"', False)])
    check(run("map", "--from-errors", "second", ":echo"), 1, "", "2 of 2 records failed")


@test
def a_torn_errors_file_is_named():
    check(run("map", "-q", "--errors", "errors", ":fail", give=numbers(2)), 1)
    write("torn", read("errors")[:-9])
    check(run("map", "--from-errors", "torn", ":echo"), 1, "0\n", "torn:2: this is no line that --errors writes")
    for words, why in [(["in.jsonl"], "and no FILE besides"), (["-i", "csv"], "-i and --files have no meaning"),
                       (["--errors", "errors", "--force"], "errors: is input and output")]:
        check(run("map", "--from-errors", "errors", ":echo", *words), 2, "", why)


# ---- packed output ----


@test
def results_are_packed_where_the_name_says_so():
    import gzip

    write("in.csv", "n\n" + numbers(20_000))
    check(run("map", ":echo", "in.csv", "--output", "out.csv.gz"), 0, "")
    equal(gzip.decompress(read("out.csv.gz")), read("in.csv"))
    check(run("map", ":echo", "out.csv.gz", "--output", "out.jsonl.gz"), 0)
    equal(gzip.decompress(read("out.jsonl.gz")).decode(), "".join(f'{{"n": "{i}"}}\n' for i in range(20_000)))
    check(run("map", ":echo", "--output", "none.gz"), 0)
    equal(gzip.decompress(read("none.gz")), b"")
    check(run("map", ":echo", "--output", "/dev/full", give="1\n"), 1, "", "/dev/full: No space left")


# ---- without calling ----


@test
def a_dry_run_calls_nothing_and_makes_nothing():
    write("in.jsonl", '"a"\n[1,\n[2]\n')
    check(run("map", "--dry-run", ":started", "in.jsonl", "--output", "out", "--errors", "errors"), 1, "",
          ["dry run: cli_ops:started(path)", "in.jsonl:2:4: not JSON", "dry run: 3 records, of which 1 cannot", "results would go to out"])
    equal(os.listdir("."), ["in.jsonl"])
    check(run("map", "--dry-run", "--star", "math:hypot", give="[1, 2]\n"), 0, "", "dry run: math:hypot(")
    check(run("map", "--dry-run", "--star", ":add", give="1\n"), 1, "", "<stdin>:1: --star needs a list")
    check(run("map", "--dry-run", ":no_such_function", give="1\n"), 2, "", "no_such_function")
    check(run("map", "--dry-run", "no_such_module:f", give="1\n"), 2, "", "No module named 'no_such_module'")
    write("out", "")
    check(run("map", "--dry-run", ":echo", "in.jsonl", "--output", "out"), 2, "", "out exists")


# ---- failures ----


@test
def failed_records_are_named_and_the_others_go_on():
    write("in.jsonl", numbers(4))
    check(run("map", ":fail_on_odd", "in.jsonl"), 1, "0\n2\n",
          ["Traceback", "in.jsonl:2: ValueError: odd: 1", "in.jsonl:4: ValueError: odd: 3", "2 of 4 records failed"])
    ended = check(run("map", ":fail", give=numbers(1000)), 1, "", ["--errors FILE", "1000 of 1000 records failed"])
    assert ended.err.count("ValueError: no good") <= 12, ended.err
    ended = check(run("map", "-v", ":fail", give=numbers(100)), 1, "")
    equal(ended.err.count("Traceback"), 100)
    equal(check(run("map", "-q", ":fail", give=numbers(100)), 1, "").err.count("Traceback"), 0)


@test
def the_errors_file_tells_all():
    write("in.jsonl", '\ufeff9\n0\n  {"a": \n3\n7\n')
    check(run("map", "-j", 1, "--errors", "errors", ":fail_on_odd", "in.jsonl"), 1, "0\n")
    errors = {e["index"]: e for e in map(json.loads, read("errors").splitlines())}
    equal([(i, e["byte_offset"], e["line"], e["input"]) for i, e in sorted(errors.items())],
          [(0, 3, 1, 9), (2, 7, 3, '  {"a": '), (3, 16, 4, 3), (4, 18, 5, 7)])
    equal((errors[3]["code"], errors[3]["type"], errors[3]["message"]), ("PYCREW_ERAISED", "ValueError", "odd: 3"))
    assert "fail_on_odd" in errors[3]["traceback"]
    equal((errors[3]["signal"], errors[3]["attempts"], errors[3]["may_have_run"]), (0, 1, True))
    equal((errors[2]["code"], errors[2]["type"]), ("EINVAL", "json.decoder.JSONDecodeError"))
    check(run("map", "--errors", "errors", ":echo"), 2, "", "errors exists")
    for line in read("errors").splitlines():
        for key in "index byte_offset input code type message traceback signal attempts may_have_run".split():
            assert key in json.loads(line), (key, line)


@test
def bad_input_is_in_the_errors_file_as_well():
    write("in.csv", b"a,b\n1\n\xff,2\n3,4\n")
    check(run("map", "--errors", "errors", ":echo", "in.csv"), 1, '{"a": "3", "b": "4"}\n')
    errors = [json.loads(line) for line in read("errors").splitlines()]
    equal([(e["index"], e["byte_offset"], e["line"], e["code"], e["may_have_run"]) for e in errors],
          [(0, 4, 2, "EINVAL", False), (1, 6, 3, "EINVAL", False)])
    equal([e["input"] for e in errors], [["1"], {"a": "\ufffd", "b": "2"}])


@test
def a_record_that_kills_its_worker_costs_the_others_nothing():
    ended = run("map", "-j", 2, "--errors", "errors", ":die_on_seven", give=numbers(2000))
    check(ended, 1, numbers(7) + numbers(1992, 8), "1 of 2000 records failed")
    error = json.loads(read("errors"))
    equal((error["index"], error["input"], error["code"], error["signal"], error["may_have_run"]),
          (7, 7, "PYCREW_EDIED", 9, True))


@test
def retries_give_a_record_more_workers():
    check(run("map", "-j", 1, "--retries", 2, "--errors", "errors", ":die_on_seven", give=numbers(10)), 1)
    equal(json.loads(read("errors"))["attempts"], 3)


@test
def a_record_past_its_deadline_costs_the_others_nothing():
    ended = run("map", "-j", 2, "--timeout", "300ms", "--errors", "errors", ":slow_on_three", give=numbers(100))
    check(ended, 1, numbers(3) + numbers(96, 4), "1 of 100 records failed")
    error = json.loads(read("errors"))
    equal((error["index"], error["code"], error["may_have_run"]), (3, "ETIMEDOUT", True))


@test
def halt_soon_finishes_what_runs():
    ended = check(run("map", "--halt", "soon", ":fail_on_odd", give=numbers(10)), 5, None, "halted after 1 failed record")
    assert b"0\n" in ended.out
    ended = check(run("map", "--halt", "soon,fail=3", ":fail_on_odd", give=numbers(1_000_000)), 5, None,
                  "halted after 3 failed records")
    assert len(ended.out) < 6_000_000


@test
def halt_now_waits_for_nothing():
    started = time.monotonic()
    ended = check(run("map", "-j", 2, "--halt", "now,fail=2", "--errors", "errors", ":fail_then_sleep", give=numbers(4)), 5)
    assert time.monotonic() - started < 20, "it waited for the sleepers"
    equal(len(read("errors").splitlines()), 2)


@test
def fewer_failures_than_halt_allows_do_not_halt():
    check(run("map", "--halt", "now,fail=3", ":fail_on_odd", give=numbers(5)), 1, "0\n2\n4\n")


@test
def a_missing_function_is_named_and_fails_its_records():
    check(run("map", ":no_such_function", give=numbers(1000)), 1, "", ["no_such_function", "1000 of 1000"])


@test
def many_deaths_are_few_words():
    ended = check(run("map", "-j", 1, ":die", give=numbers(15)), 1, "", "15 of 15 records failed")
    assert ended.err.count("is replaced") <= 10, ended


# ---- output that ends ----


@test
def a_closed_pipe_is_a_quiet_end():
    text = f"set -o pipefail; yes 1 | {' '.join(command('map', ':echo'))} | head -n 3"
    ended = subprocess.run(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
    equal((ended.returncode, ended.stdout, ended.stderr), (141, b"1\n1\n1\n", b""))


@test
def a_full_disk_ends_the_map_and_is_named():
    with open("/dev/full", "wb") as full:
        check(end(start("map", ":echo", stdout=full), numbers(3).encode()), 1, None, "stdout: No space left")
        with open("/dev/zero", "rb") as zero:
            endless = subprocess.Popen(["yes", "1"], stdout=subprocess.PIPE)
            check(end(start("map", ":echo", stdin=endless.stdout, stdout=full)), 1, None, "stdout: No space left")
            endless.kill()
            endless.wait()
            endless.stdout.close()
    check(run("map", "--output", "/dev/full", ":echo", give="1\n"), 1, "", "/dev/full: No space left")
    check(run("map", "--errors", "/dev/full", ":fail", give="1\n"), 1, "", "/dev/full: No space left")


@test
def closed_standard_descriptors_are_named():
    write("in.jsonl", "1\n")
    for words, code, piece in [("<&-", 2, "<stdin>:1: Bad file descriptor"), ("in.jsonl >&-", 1, "stdout: Bad file descriptor")]:
        text = f"{' '.join(command('map', ':echo'))} {words}"
        ended = subprocess.run(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
        check(Ended(ended.returncode, ended.stdout, ended.stderr.decode()), code, "", piece)


@test
def results_far_larger_than_the_shared_memory_all_come_out():
    for options in ([], ["-u"]):
        ended = check(run("map", "-j", 2, "--memory", "32M", *options, ":text", give=b"1000000\n" * 300), 0)
        equal((len(ended.out), len(ended.lines())), (300 * 1_000_003, 300))


@test
def lines_are_whole_however_slow_the_reader_is():
    text = f"yes '\"abcdefghij\"' | head -n 100000 | {' '.join(command('map', ':echo'))} | (sleep 0.5; cat)"
    ended = subprocess.run(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
    equal(ended.stdout, b'"abcdefghij"\n' * 100000)


# ---- streams ----


def read_line(fd, limit_s=20):
    line, deadline = b"", time.monotonic() + limit_s
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        assert left > 0 and select.select([fd], [], [], left)[0], f"no line within {limit_s} s, only {line!r}"
        piece = os.read(fd, 1)
        assert piece, "the stream ended"
        line += piece
    return line


@test
def a_trickling_pipe_gets_its_results_at_once():
    process = start("map", "-j", 2, ":echo")
    for i in range(20):
        process.stdin.write(b"%d\n" % i)
        process.stdin.flush()
        equal(read_line(process.stdout.fileno()), b"%d\n" % i)
    check(end(process, b""), 0)


@test
def a_result_does_not_wait_for_a_slower_input():
    process = start("map", "-j", 1, ":slow")
    process.stdin.write(b"0.3\n0.1\n")
    process.stdin.flush()
    equal([read_line(process.stdout.fileno()) for _ in range(2)], [b"0.3\n", b"0.1\n"])
    process.stdin.write(b"0.2")  # and no line end
    check(end(process), 0, "0.2\n")


@test
def waiting_for_input_costs_nothing():
    process = start("map", ":echo")
    process.stdin.write(b"1\n")
    process.stdin.flush()
    read_line(process.stdout.fileno())
    time.sleep(0.2)

    def switches():
        text = read(f"/proc/{process.pid}/status").decode()
        return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))

    before = switches()
    time.sleep(1)
    assert switches() - before <= 2, f"{switches() - before} switches in a second"
    check(end(process, b""), 0)


def peak_kb(count):
    """The command's own peak of memory, for so many records of 100 bytes."""
    record = b'"' + b"x" * 97 + b'"\n'
    process = start("map", "--memory", "256M", "--with-input", ":length", stdout=subprocess.DEVNULL,
                    env={**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=4"})
    peak = []

    def watch():
        while process.poll() is None:
            try:
                found = re.search(rb"VmHWM:\s+(\d+)", read(f"/proc/{process.pid}/status"))
                private = re.search(rb"RssAnon:\s+(\d+)", read(f"/proc/{process.pid}/status"))
            except OSError:
                break
            if found and private:
                peak.append(int(private[1]))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(count // 1000):
        process.stdin.write(record * 1000)
    check(end(process, b""), 0)
    watcher.join()
    return max(peak)


@test
def memory_does_not_grow_with_the_input():
    few, many = peak_kb(200_000), peak_kb(2_000_000)
    assert many < few * 1.3 + 4096, f"{few} kB for 20 MB, {many} kB for 200 MB"


# ---- signals ----


@test
def an_interrupt_finishes_what_is_in_flight():
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start("map", "-j", 2, "-i", "lines", ":started_then")
        process.stdin.write(b"one\ntwo\nthree\n")
        process.stdin.flush()
        wait_until(lambda: os.path.exists("one") and os.path.exists("two"), "two records to start")
        process.send_signal(number)
        line = read_line(process.stderr.fileno())
        assert b"3 records in flight will be finished" in line, line
        write("go", "")
        check(end(process), 128 + number, '"one"\n"two"\n"three"\n')
        for name in ("one", "two", "three", "go"):
            os.unlink(name)


@test
def a_second_interrupt_kills():
    process = start("map", "-j", 2, "-i", "lines", ":started")
    process.stdin.write(b"one\ntwo\n")
    process.stdin.flush()
    wait_until(lambda: os.path.exists("one") and os.path.exists("two"), "two records to start")
    process.send_signal(signal.SIGINT)
    read_line(process.stderr.fileno())
    process.send_signal(signal.SIGINT)
    check(end(process), 130, "", "2 records in flight were given up")


@test
def an_interrupt_while_it_waits_for_input_ends_it():
    process = start("map", ":echo")
    process.stdin.write(b"1\n")
    process.stdin.flush()
    read_line(process.stdout.fileno())
    process.send_signal(signal.SIGINT)
    equal(process.wait(timeout=LIMIT_S), 130)
    end(process, b"")


@test
def a_second_interrupt_ends_it_though_nobody_reads_its_output():
    process = start("map", ":text", stderr=subprocess.DEVNULL)
    process.stdin.write(b"300000\n" * 20)
    process.stdin.close()
    process.stdin = None
    select.select([process.stdout], [], [], 20)
    time.sleep(0.3)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    equal(process.wait(timeout=20), 130)
    process.stdout.close()


@test
def no_worker_outlives_the_command():
    process = start("map", "-j", 3, ":started", "-i", "lines", env={**os.environ, "CLI_TEST_RUN": str(os.getpid())})
    process.stdin.write(b"one\n")
    process.stdin.flush()
    wait_until(lambda: os.path.exists("one"), "the record to start")
    assert len(children_left(os.getpid())) >= 2, "the command and its workers are not found"
    process.kill()
    process.wait()
    wait_until(lambda: not children_left(os.getpid()), "the workers to end")
    end(process)


# ---- progress ----


@test
def without_a_terminal_there_is_no_progress():
    check(run("map", ":slow", give="0.3\n"), 0, "0.3\n")
    equal(run("map", ":slow", give="0.3\n").err, "")


@test
def json_progress_is_lines_of_json():
    ended = check(run("map", "--progress", "json", "-j", 1, ":slow", give="0.7\n0.7\n0.1\nx\n"), 1)
    lines = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    assert len(lines) >= 2, ended
    last = lines[-1]
    equal((last["done"], last["total"], last["failed"], last["ended"]), (4, 4, 1, True))
    equal([line["ended"] for line in lines[:-1]], [False] * (len(lines) - 1))


@test
def a_signal_prints_one_line_of_progress():
    process = start("map", "-j", 1, "-i", "lines", ":started_then")
    process.stdin.write(b"one\ntwo\n")
    process.stdin.flush()
    wait_until(lambda: os.path.exists("one"), "the record to start")
    process.send_signal(signal.SIGUSR1)
    assert re.match(rb"pycrew: 0  .*/s\n", read_line(process.stderr.fileno()))
    write("go", "")
    check(end(process), 0, '"one"\n"two"\n')


def on_terminal(*words, give=b"", columns=60):
    """Runs with stderr on a terminal: exit code, stdout, what the terminal got."""
    import fcntl, struct, termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = start(*words, stderr=theirs)
    os.close(theirs)
    seen = []

    def watch():
        try:
            while piece := os.read(ours, 4096):
                seen.append(piece)
        except OSError as error:
            assert error.errno == errno.EIO

    watcher = threading.Thread(target=watch)
    watcher.start()
    ended = end(process, give)
    watcher.join()
    os.close(ours)
    return ended.code, ended.out, b"".join(seen).decode()


@test
def a_terminal_gets_a_bar():
    write("in.jsonl", "0.05\n" * 20)
    code, out, seen = on_terminal("map", "-j", 1, ":slow", "in.jsonl")
    equal((code, out), (0, b"0.05\n" * 20))
    assert re.search(r"\r\[#+-+\] +\d+%  \d+/20  [0-9.,]+/s  ETA 0:0\d", seen), seen
    last = re.sub(r"\x1b\[K", "", seen).replace("\r\n", "\n").split("\r")[-1]
    assert re.fullmatch(r"\[#{20}\] 100%  20/20  [0-9.,]+/s\n", last), seen


@test
def a_bar_is_no_wider_than_the_terminal():
    seen = on_terminal("map", "-j", 1, ":slow", give=b"0.05\n" * 20, columns=20)[2]
    drawn = [line.split("\x1b[K")[0] for line in seen.split("\r") if line.endswith("\x1b[K")]
    assert drawn and max(map(len, drawn)) == 19, seen


@test
def quiet_or_none_has_no_bar():
    for option in (["-q"], ["--progress", "none"]):
        equal(on_terminal("map", *option, ":slow", give=b"0.3\n")[2], "")


@test
def what_python_prints_stands_above_the_bar():
    code, out, seen = on_terminal("map", "-j", 1, ":loud_later", give=numbers(3).encode())
    equal(code, 0)
    for i in range(3):
        assert re.search(rf"(^|\n|\r\x1b\[K)\[w0\] to stdout {i}\r\n", seen), seen


if __name__ == "__main__":
    main()
