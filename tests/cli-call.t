#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew call, as a shell sees it.
import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *


@test
def the_result_is_one_line_of_json():
    check(run("call", ":add", 3, 5), 0, "8\n")
    check(run("call", ":echo", '{"a": [1, null, true, "\\u00e4"]}'), 0, '{"a": [1, null, true, "ä"]}\n')
    check(run("call", ":echo"), 0, "null\n")


@test
def an_argument_is_json_if_it_parses_and_else_a_string():
    for word, value in [("007", "007"), ("-5", -5), ("-.5", "-.5"), ("1e3", 1000.0), ("hello", "hello"),
                        ("true", True), ("True", "True"), ('"7"', "7"), ("", ""), (" 7 ", 7),
                        ("[1,]", "[1,]"), ("{", "{"), ("1_000", "1_000"), ("ä", "ä"), ("nan", "nan")]:
        ended = check(run("call", ":echo", word), 0)
        equal(json.loads(ended.out), value, word)


@test
def ints_of_any_size_are_exact():
    for number in [2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**1000]:
        check(run("call", ":add", number, 1), 0, f"{number + 1}\n")


@test
def with_strings_every_argument_is_a_string_as_it_stands():
    check(run("call", "-s", ":arguments", "7", "@nope", "-k", "n=1"), 0, '[["7", "@nope"], {"n": "1"}]\n')


@test
def keyword_arguments_stand_anywhere():
    check(run("call", "-k", "a=1", ":arguments", 2, "-k", "b=x=y", "--keyword", "c="), 0,
          '[[2], {"a": 1, "b": "x=y", "c": ""}]\n')
    check(run("call", ":arguments", "-k", "novalue"), 2, "", "NAME=VALUE")
    check(run("call", ":arguments", "-k", "=3"), 2, "", "NAME=VALUE")


@test
def options_end_at_two_dashes():
    check(run("call", ":arguments", "--", "-k", "--help"), 0, '[["-k", "--help"], {}]\n')


@test
def an_at_sign_is_the_text_of_a_file_or_of_stdin():
    write("text", "7 ä\n")
    check(run("call", ":echo", "@text"), 0, '"7 ä\\n"\n')
    check(run("call", ":echo", "@-", give="from stdin"), 0, '"from stdin"\n')
    check(run("call", ":arguments", "-k", "t=@text"), 0, '[[], {"t": "7 ä\\n"}]\n')
    check(run("call", ":echo", "@missing"), 2, "", "@missing: No such file")
    check(run("call", ":echo", "@."), 2, "", "@.: Is a directory")
    write("binary", b"ok \xff")
    check(run("call", ":echo", "@binary"), 2, "", "@binary: not UTF-8: byte 0xff at byte 4")


@test
def an_argument_that_is_not_utf8_is_refused():
    ended = end(subprocess.Popen([os.fsencode(word) for word in command("call", ":echo")] + [b"a\xff"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    check(ended, 2, "", "not UTF-8: byte 0xff at byte 2")


@test
def raw_prints_str_and_bytes_as_they_are():
    check(run("call", "-r", ":echo", "a b"), 0, "a b\n")
    check(run("call", "-r", ":raw_bytes"), 0, bytes(range(256)))
    check(run("call", "-r", ":add", 1, 2), 1, "", "neither str nor bytes")


@test
def a_stream_prints_each_item_as_it_comes():
    check(run("call", "--stream", ":count_to", 3), 0, "0\n1\n2\n")
    check(run("call", "--stream", ":count_to", 100000), 0, "".join("%d\n" % i for i in range(100000)))
    check(run("call", "--stream", "-r", ":echo_twice", "a b"), 0, "a b\na b\n")
    process = start("call", "--stream", ":one_then_wait", "flag")
    equal(process.stdout.readline(), b'"first"\n')
    write("flag", "")
    check(end(process), 0, '"second"\n')


@test
def a_stream_that_fails_has_printed_what_came_before():
    check(run("call", "--stream", ":fail_after", 2), 1, "0\n1\n", ("ValueError: enough", "in fail_after"))
    check(run("call", "--stream", ":die_after", 2), 4, "0\n1\n", "signal 9")
    check(run("call", "--stream", ":echo", "[1, 2]"), 1, "", "no generator")
    check(run("call", "--stream", "-r", ":count_to", 2), 1, "", "neither str nor bytes")


@test
def arrays_are_printed_as_lists():
    check(run("call", "array:array", "i", "[1, 2]"), 0, "[1, 2]\n")
    check(run("call", ":buffers"), 0, '{"view": [1, 2], "bytes": "AQI="}\n')
    check(run("call", ":unprintable"), 1, "", "Object of type object is not JSON serializable")


@test
def a_large_result_comes_whole():
    ended = check(run("call", ":text", 20_000_000), 0)
    equal(len(ended.out), 20_000_003)


@test
def an_exception_is_its_traceback_and_exit_1():
    check(run("call", ":fail", "x"), 1, "", ["Traceback", "cli_ops.py", "in fail", "ValueError: no good: x"])


@test
def wrong_arguments_are_pythons_own_error():
    check(run("call", ":add", 1), 1, "", ["TypeError", "'b'"])


@test
def what_python_prints_goes_to_stderr_with_the_workers_number():
    ended = check(run("call", ":loud", 4), 0, "4\n")
    equal(sorted(ended.err.splitlines()), ["[w0] to stderr 4", "[w0] to stdout 4"])


@test
def a_result_json_cannot_say_is_an_error():
    check(run("call", ":half_pair"), 1, "")
    check(run("call", ":unsayable"), 1, "", "TypeError")


@test
def a_worker_that_dies_is_exit_4():
    equal(check(run("call", ":die"), 4, "", "signal 11").err.count("signal 11"), 1)
    check(run("call", ":leave"), 4, "", "9")


@test
def a_deadline_is_exit_124():
    check(run("call", "--timeout", "200ms", ":slow", 60), 124, "", "deadline")
    check(run("call", "--timeout", "30", ":slow", 0), 0, "0\n")


@test
def a_missing_module_or_function_is_named():
    check(run("call", "no_such_module:f"), 1, "", "no_such_module")
    check(run("call", ":no_such_function"), 1, "", "no_such_function")


@test
def a_malformed_function_is_exit_2():
    for name in ["nocolon", ":", "a:", "a b:c", "a:b:c"]:
        check(end(subprocess.Popen([PYCREW, "call", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)), 2, "")


@test
def wrong_usage_is_exit_2():
    for words in [[], ["--whole", "3", ":add"], ["--timeout", "10x", ":add"], ["--timeout", "-1", ":add"],
                  ["--memory", "2X", ":add"], ["--memory", "0", ":add"], ["-j", "x", ":add"], ["-Z"],
                  ["--retries"], ["--quiet=1", ":add"], ["--star", ":add"], ["--engine", ":add"],
                  ["--timeout", "inf", ":add"], ["--memory", "99999999999999999999", ":add"]]:
        ended = check(run("call", *words), 2, "")
        assert ended.err.startswith("pycrew: ") and ended.err.count("\n") == 1, (words, ended)


@test
def help_and_version_go_to_stdout():
    check(run("call", "--help"), 0, None)
    assert b"--keyword" in run("call", "--help").out
    assert b"--star" not in run("call", "--help").out
    assert run("call", "--version").out.startswith(b"pycrew ")
    for words, code in [([], 2), (["--help"], 0), (["--version"], 0), (["nonsense"], 2)]:
        ended = subprocess.run([PYCREW] + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        equal(ended.returncode, code, words)


@test
def the_current_directory_comes_first_then_path():
    write("here.py", "def where(): return 'here'")
    os.mkdir("other")
    write("other/here.py", "def where(): return 'other'")
    write("other/there.py", "def where(): return 'there'")
    check(run("call", "--path", "other", "here:where"), 0, '"here"\n')
    check(run("call", "--path", "other", "there:where"), 0, '"there"\n')


@test
def env_init_and_preload_reach_the_worker():
    check(run("call", "--env", "CLI_A=x=y", ":environment", "CLI_A"), 0, '"x=y"\n')
    check(run("call", "--env", "HOME", ":environment", "HOME"), 0, "null\n")
    check(run("call", "--init", "cli_ops:prepare", ":prepared_times"), 0, "1\n")
    check(run("call", "--preload", "colorsys", ":is_imported", "colorsys"), 0, "true\n")
    check(run("call", ":is_imported", "colorsys"), 0, "false\n")


@test
def a_preload_or_init_that_fails_is_exit_3():
    write("broken.py", "def f(): pass\n1/0\n")
    check(run("call", "--preload", "broken", ":echo"), 3, "", ["ZeroDivisionError", "broken.py"])
    check(run("call", "--init", "cli_ops:fail", ":echo"), 3, "", "ValueError")


@test
def a_closed_stdout_is_a_quiet_141():
    reader, writer = os.pipe()
    os.close(reader)
    ended = end(start("call", ":echo", 1, stdout=writer))
    os.close(writer)
    equal((ended.code, ended.err), (141, ""))


@test
def a_full_disk_is_named():
    with open("/dev/full", "wb") as full:
        check(end(start("call", ":echo", 1, stdout=full)), 1, "", "stdout: No space left")


@test
def an_interrupt_ends_the_call():
    for number in [signal.SIGINT, signal.SIGTERM]:
        flag = f"flag{number}"
        process = start("call", ":started", flag)
        wait_until(lambda: os.path.exists(flag), "the function to start")
        process.send_signal(number)
        check(end(process), 128 + number, "")


if __name__ == "__main__":
    main()
