#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# Each error that the command can say: its exit status and its whole text, as doc/errors.md has them.
# One row, one error. *name* stands for what differs; tests/errors.t compares the two.
import gzip
import json
import os
import re
import resource
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
import error_texts
from cli_tap import *

HELP = " (pycrew *command* --help tells more)"


class Row:
    """A line of stderr, the exit status, and what causes it: words, or a function that gives how they ended."""

    def __init__(self, code, text, *words, give="", **options):
        self.code, self.text, self.words, self.give, self.options = code, text, words, give, options

    def run(self):
        if callable(self.words[0]):
            return self.words[0]()
        return run(*self.words, give=self.give, **self.options)

    def problem(self):
        ended = self.run()
        lines = [line.removeprefix("pycrew: ") for line in ended.err.splitlines()]
        if ended.code != self.code:
            return f"{self.words}: wanted exit {self.code} with {self.text!r}: {ended}"
        if not any(re.fullmatch(error_texts.pattern(self.text), line) for line in lines):
            return f"{self.words}: wanted {self.text!r}: {ended}"
        return None


def rows(*table):
    problems = [problem for problem in (row.problem() for row in table) if problem]
    assert not problems, "\n".join(problems)


@test
def wrong_command_lines():
    rows(
        Row(2, "which command? *commands* (pycrew --help tells more)", lambda: bare()),
        Row(2, "'*word*' is no command: *commands* are (pycrew --help tells more)", lambda: bare("mop")),
        Row(2, "unknown option *option*" + HELP, "call", "--no-such", ":add"),
        Row(2, "unknown option -*letter*" + HELP, "call", "-%", ":add"),
        Row(2, "*option* needs an argument" + HELP, "call", ":add", "-j"),
        Row(2, "--*option* takes no argument" + HELP, "map", "--star=3", ":add"),
        Row(2, "MODULE:FUNCTION is missing" + HELP, "call"),
        Row(2, "one MODULE:FUNCTION at a time" + HELP, "doctor", "a:b", "c:d"),
        Row(2, "MODULE is missing" + HELP, "stubs"),
        Row(2, "one MODULE at a time" + HELP, "stubs", "a", "b"),
        Row(2, "--output is for those that are not named one by one" + HELP,
            "stubs", "--output", "d", "--c-header", "h.h", "stub_ops"),
        Row(2, "--star and --kwargs exclude each other" + HELP, "map", "--star", "--kwargs", ":add"),
        Row(2, "--files does not read the files, so -i has no meaning" + HELP,
            "map", "--files", "-i", "csv", ":echo", "f"),
        Row(2, "--files needs FILEs" + HELP, "map", "--files", ":echo"),
        Row(2, "--files gives strings, which --star and --kwargs cannot spread" + HELP,
            "map", "--files", "--star", ":echo", "f"),
        Row(2, "--whole gives one list, which --star and --kwargs would spread" + HELP,
            "map", "--whole", "3", "--star", ":echo"),
        Row(2, "--from-errors reads the failed records, and no FILE besides" + HELP,
            "map", "--from-errors", "e", ":echo", "f"),
        Row(2, "--from-errors knows what it reads: -i and --files have no meaning" + HELP,
            "map", "--from-errors", "e", "-i", "csv", ":echo"),
        Row(2, "--dry-run calls nothing, and so there is nothing to --report" + HELP,
            "map", "--dry-run", "--report", "r.html", ":echo"),
        Row(2, "*file* cannot be written to for two purposes",
            "map", "--output", "o", "--trace", "o", ":echo", give="1\n"),
        Row(1, "there is no process *pid*", lambda: bare("top", "--once", "4000000")),
        Row(1, "process *pid* has no crew: it has not opened one, or has closed it",
            lambda: bare("top", "--once", str(os.getpid()))),
        Row(2, "--resume goes on from a --checkpoint FILE, which is missing" + HELP, "map", "--resume", ":echo"),
        Row(2, "--checkpoint needs --output FILE: what stdout got cannot be taken back" + HELP,
            "map", "--checkpoint", "c", ":echo"),
        Row(2, "--checkpoint-every is about a --checkpoint FILE, which is missing" + HELP,
            "map", "--checkpoint-every", "1s", ":echo"),
        Row(2, "lines are strings, which --star and --kwargs cannot spread" + HELP,
            "map", "-i", "lines", "--star", ":echo"),
        Row(2, "-k: '*text*' is not NAME=VALUE", "call", "-k", "x", ":add"),
    )


def bare(*words):
    process = subprocess.run([PYCREW, *words], capture_output=True, text=True)
    return Ended(process.returncode, process.stdout.encode(), process.stderr)


@test
def wrong_arguments_of_options():
    rows(
        Row(2, "--*option*: '*text*' is not a number from 0 to 1000000", "call", "-j", "many", ":add"),
        Row(2, "--*option*: '*text*' is not a number of calls", "call", "--max-calls", "-3", ":add"),
        Row(2, "--*option*: '*text*' is not a size: bytes, or 64K, 512M, 2G, 1T", "call", "--memory", "5X", ":add"),
        Row(2, "--*option*: '*text*' is not a time: 10s, 500ms, 1.5m (ns, us, ms, s, m, h; s without one)",
            "call", "--timeout", "soon", ":add"),
        Row(2, "--*option*: '*text*' is not one of jsonl, csv, tsv, lines, nul", "map", "-i", "xml", ":echo"),
        Row(2, "--*option*: '*text*' is not one of literal, null, error", "map", "--nan", "0", ":echo"),
        Row(2, "--*option*: '*text*' is not one of auto, bar, plain, json, none", "map", "--progress", "x", ":echo"),
        Row(2, "--*option*: '*text*' is not now or soon, or now,fail=N or soon,fail=N", "map", "--halt", "x", ":echo"),
    )


@test
def what_call_refuses():
    write("latin", b"\xe4")
    rows(
        Row(2, "*argument*: not UTF-8: byte 0x*value* at byte *number*", "call", ":echo", "@latin"),
        Row(2, "*argument*: *reason*", "call", ":echo", "@not-there"),
        Row(1, "the result is neither str nor bytes, which is all that -r prints; without -r it is JSON",
            "call", "-r", ":add", 1, 2),
        Row(1, "an item is neither str nor bytes, which is all that -r prints; without -r it is JSON",
            "call", "--stream", "-r", ":count_to", 2),
        Row(1, "*type*: *message*", "call", ":fail", 3),
        Row(4, "worker *worker* (PID *pid*) was killed by signal *signal* (*name*)", "call", ":die"),
        Row(124, "pycrew.DeadlineExceeded: the call's deadline passed", "call", "--timeout", "1s", "time:sleep", 60),
        Row(3, "options.python is *path*: *reason*", "call", "--python", "/nowhere/python", ":echo"),
    )


@test
def records_that_cannot_be_given_to_the_function():
    write("twice.csv", "a,a\n1,2\n")
    write("few.csv", "a,b\n1\n")
    write("quote.csv", 'a,b\nx"y,2\n')
    write("open.csv", 'a,b\n"x,2\n')
    write("latin.jsonl", b'"\xe4"\n')
    rows(
        Row(1, "*place*: not JSON: *reason*", "map", ":echo", give="{\n"),
        Row(1, "*place*: --star needs a list", "map", "--star", ":echo", give="1\n"),
        Row(1, "*place*: --kwargs needs a dict", "map", "--kwargs", ":echo", give="1\n"),
        Row(1, "*place*: no argument can be named *name*", "map", "--kwargs", ":echo", give='{"\\ud800": 1}\n'),
        Row(1, "*place*: not UTF-8: byte 0x*value* at byte *number* of the line", "map", ":echo", "latin.jsonl"),
        Row(2, "*place*: the header has this name twice: *name*", "map", ":echo", "twice.csv"),
        Row(1, "*place*: *number* field, but the header has *number*", "map", ":echo", "few.csv"),
        Row(1, "*place*: a quote out of place; in a field that is quoted whole, a quote is doubled",
            "map", ":echo", "quote.csv"),
        Row(1, "*place*: a quote that is opened here is never closed", "map", ":echo", "open.csv"),
        Row(1, "more records fail; --errors FILE or -v tells about all", "map", ":fail", give="1\n" * 50),
        Row(1, "more records fail; the --errors file has them all", "map", "--errors", "e", ":fail", give="1\n" * 50),
        Row(5, "halted after *number* failed record", "map", "--halt", "now", ":fail", give="1\n"),
        Row(1, "*number* of *number* records failed", "map", "-v", ":fail_on_odd", give="1\n2\n"),
    )


@test
def results_that_the_format_cannot_say():
    rows(
        Row(1, "*place*: a line end cannot stand within -o lines; -o jsonl or nul can say it",
            "map", "-o", "lines", ":echo", give='"a\\nb"\n'),
        Row(1, "*place*: a NUL cannot stand within -o nul; -o jsonl can say it",
            "map", "-o", "nul", ":echo", give='"a\\u0000b"\n'),
        Row(1, "*place*: the result has not the same keys as the first one, which are the columns; -o jsonl can say it",
            "map", "-o", "csv", ":echo", give='{"a": 1}\n{"b": 1}\n'),
        Row(1, "*place*: the result is no row like the first one (dict, list or value); -o jsonl can say it",
            "map", "-o", "csv", ":echo", give='[1]\n2\n'),
        Row(1, "*place*: --flatten needs a list as the result", "map", "--flatten", ":echo", give="1\n"),
        Row(1, "*place*: *number* results for *number* records: which is whose is not known",
            "map", "--whole", "2", "--flatten", "--index", ":group_of_one_less", give="1\n2\n"),
        Row(1, "*place*: the result holds NaN or Infinity, which JSON has not; --nan null writes null",
            "map", "--nan", "error", ":nan_if_odd", give="1\n"),
    )


@test
def files_that_cannot_be_read():
    packed = gzip.compress(b"1\n" * 1000)
    write("short.jsonl.gz", packed[:-10])
    write("bad.jsonl.gz", packed[:14] + b"\xff" * 20)
    write("torn", "{}\n")
    write("a.xml", "")
    rows(
        Row(2, "*file*: what format this is cannot be told from its name; say -i jsonl, csv, tsv, lines or nul",
            "map", ":echo", "a.xml"),
        Row(2, "*file*: *reason*", "map", ":echo", "not-there.jsonl"),
        Row(2, "*place*: the compressed data are damaged", "map", ":echo", "bad.jsonl.gz"),
        Row(2, "*place*: the compressed data end in the middle", "map", ":echo", "short.jsonl.gz"),
        Row(1, "*place*: this is no line that --errors writes", "map", "--from-errors", "torn", ":echo"),
    )


@test
def files_that_are_not_written():
    write("a.jsonl", "1\n")
    write("there", "")
    rows(
        Row(2, "*file* exists; --force overwrites it", "map", "--output", "there", ":echo"),
        Row(2, "*file*: is input and output; write to another file",
            "map", "--force", "--output", "a.jsonl", ":echo", "a.jsonl"),
        Row(2, "*file*: results and failed records cannot go to the same file (--output, --errors)",
            "map", "--force", "--output", "b", "--errors", "b", ":echo"),
        Row(2, "*file*: *reason*", "map", "--output", "no/such/folder", ":echo"),
        Row(2, "*file* cannot be the checkpoint and be written to otherwise",
            "map", ":echo", "a.jsonl", "--checkpoint", "o", "--output", "o"),
        Row(2, "*file*: is input and checkpoint; take another file for --checkpoint",
            "map", ":echo", "a.jsonl", "--checkpoint", "a.jsonl", "--output", "o", "--force"),
        Row(2, "*file* is no regular file, as --checkpoint needs: else it cannot be cut",
            "map", ":echo", "a.jsonl", "--checkpoint", "c", "--output", "/dev/null"),
    )


def whole(*more):
    return ["map", ":echo", "a.jsonl", "--checkpoint", "c", "--output", "o", *more]


@test
def checkpoints_that_cannot_be_gone_on_from():
    write("a.jsonl", "2\n1\n")
    check(run(*whole()), 0)
    os.mkfifo("pipe.jsonl")
    rows(
        Row(2, "*file* exists; --resume goes on from it, --force begins anew", *whole()),
        Row(2, "*file*: cannot go on from it: *what* was *value*, and is *value* now", *whole("--resume", "--index")),
        Row(2, "--checkpoint: stdin cannot be read a second time; name the file",
            "map", ":echo", "--checkpoint", "d", "--output", "p"),
        Row(2, "--checkpoint: *file* is no regular file, and cannot be read a second time",
            "map", ":echo", "pipe.jsonl", "--checkpoint", "d", "--output", "p"),
    )
    check(run("map", ":fail_on_odd", "a.jsonl", "--checkpoint", "h", "--output", "p", "--halt", "now"), 5)
    write("p", "something else\n")
    rows(Row(2, "*file*: is not what it was when *file* was written; --force without --resume begins anew",
             "map", ":fail_on_odd", "a.jsonl", "--checkpoint", "h", "--output", "p", "--resume"))
    write("c", "nothing")
    rows(Row(2, "*file*: cannot go on from it: it is no checkpoint, or a damaged one; --force without --resume begins anew",
             *whole("--resume")))


@test
def an_output_of_two():
    import fcntl

    write("a.jsonl", "1\n")
    with open("o", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rows(Row(2, "*file* is being written by another pycrew map", *whole("--force"), pass_fds=[file.fileno()]))


STUBS = """
import collections.abc, dataclasses, typing, numpy
class Other: pass
class Empty(typing.NamedTuple): pass
@dataclasses.dataclass
class Tree:
    left: "Tree"
@dataclasses.dataclass
class WithInit:
    x: int
    y: dataclasses.InitVar[int]
@dataclasses.dataclass
class NotMade:
    x: int = dataclasses.field(init=False)
@dataclasses.dataclass
class Umlaut:
    \u00fc: int
@dataclasses.dataclass
class Bad:
    x: "NoSuchName"
@dataclasses.dataclass
class Deep:
    x: Other
import collections
Bare = collections.namedtuple("Bare", "x")
def local():
    @dataclasses.dataclass
    class Local:
        x: int
    return Local
Local = local()
def f1(x) -> int: ...
def f2(x: int): ...
def f3(x: Other) -> int: ...
def f4(x: collections.abc.Iterator[int]) -> int: ...
def f5(x: None) -> int: ...
def f6(x: typing.Any) -> int: ...
def f7(x: int | str) -> int: ...
def f8(x: dict[float, int]) -> int: ...
def f9(x: tuple[()]) -> int: ...
def f10(x: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]) -> int: ...
def f11(x: numpy.ndarray) -> int: ...
def f12(x: list) -> int: ...
def f13(x: Tree) -> int: ...
def f14(x: Empty) -> int: ...
def f15(x: WithInit) -> int: ...
def f16(x: NotMade) -> int: ...
def f17(x: Umlaut) -> int: ...
def f18(x: Bad) -> int: ...
def f19(x: Deep) -> int: ...
def f20(x: Bare) -> int: ...
def f21(x: Local) -> int: ...
def f22(**x: int) -> int: ...
def f23(\u00fc: int) -> int: ...
def f24(x: "NoSuchName") -> int: ...
def \u00fc(x: int) -> int: ...
"""


@test
def annotations_without_a_c_type():
    write("stubbed.py", STUBS.encode())
    write("nothing.py", "")
    ended = run("stubs", "stubbed", "--path", ".")
    rows(
        Row(1, "*file*:*line*: *function*: the parameter *name* has no annotation", lambda: ended),
        Row(1, "*file*:*line*: *function*: the result has no annotation", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has no C type", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* is for results only; a parameter can be a list",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* alone is for results only", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* says nothing about the type", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* is one of several types; of unions only Optional "
               "has a C type", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has keys that are neither str nor int",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has no items", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* is of no certain dtype: bool, ints, floats and "
               "complex are", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* is of no certain dtype: "
               "numpy.typing.NDArray[numpy.float64] is", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* says nothing about its items: *better* does",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has a field *name*: *annotation*, which contains "
               "itself", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has no fields", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has an InitVar, which is no field",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* cannot be made: its __init__ does not take its "
               "field *name*", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has a field *name*, which is no name in C",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has fields whose annotations raise *type*: *text*",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has a field *name*: *annotation*, which has no C "
               "type", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* has a field *name* without an annotation",
            lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation* is inside of a function", lambda: ended),
        Row(1, "*file*:*line*: *function*: ***name* has no fixed names; give them as parameters", lambda: ended),
        Row(1, "*file*:*line*: *function*: *name* is no name in C", lambda: ended),
        Row(1, "*file*:*line*: *function*: *parameter*: *annotation*: *type*: *text*", lambda: ended),
        Row(1, "*file*:*line*: *function* is no name in C", lambda: ended),
        Row(1, "*file*:*line*: defines no function", "stubs", "nothing", "--path", "."),
        Row(1, "*file*:*line*: *function*: there is no such function", "stubs", "stubbed", "--path", ".", "--only", "g"),
        Row(1, "--int: *type* is none of *types*", "stubs", "stubbed", "--path", ".", "--int", "char"),
        Row(1, "--*option*: *text* is no name in C", "stubs", "stubbed", "--path", ".", "--prefix", "2"),
        Row(1, "--prefix: *text* is too little", "stubs", "stubbed", "--path", ".", "--prefix", "_"),
        Row(1, "*name* would be the name of *function* and of *function*: --only or another --prefix helps",
            clashing_stubs),
        Row(1, "*file*:*line*: *name* is a class of *module* and of *module*: their structs would have one name",
            clashing_classes),
    )


def clashing_stubs():
    write("clashing.py", "def a(x: int) -> int: ...\ndef a_prepare(x: int) -> int: ...\n")
    return run("stubs", "clashing", "--path", ".")


def clashing_classes():
    for name in "first", "second":
        write(name + ".py", "import typing\nclass P(typing.NamedTuple):\n    x: int\n")
    write("both.py", "import first, second\ndef a(x: first.P) -> int: ...\ndef b(x: second.P) -> int: ...\n")
    return run("stubs", "both", "--path", ".")


def import_here():
    python = subprocess.run([sys.executable, "-c", "import pycrew"], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": os.path.join(TOP, "python")})
    return Ended(python.returncode, python.stdout.encode(), python.stderr)


@test
def pycrew_in_any_other_python():
    rows(Row(1, "ImportError: the module pycrew is there only inside a pycrew worker", import_here))


if __name__ == "__main__":
    main()
