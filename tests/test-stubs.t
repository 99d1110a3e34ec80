#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew stubs, as a shell, make and a compiler see it. STUBS_COMPILERS="gcc clang" compiles with each of these.
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *

FLAGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Wshadow", "-Werror", "-I", os.path.join(TOP, "lib"), "-I."]
COMPILERS = os.environ.get("STUBS_COMPILERS", "gcc").split()


def stubs(*words, **options):
    return run("stubs", *words, **options)


def compiled(*words):
    """0, or what the compiler says."""
    ended = subprocess.run(list(words[:1]) + FLAGS + list(words[1:]), capture_output=True, text=True)
    return ended.stderr if ended.returncode else 0


def cpp_compiler(compiler):
    return {"gcc": "g++", "clang": "clang++"}.get(compiler, compiler + "++")


def read(name):
    with open(name) as file:
        return file.read()


# What has no C type, as a parameter, and what is said of it.
UNSUPPORTED = [
    ("x: typing.Any", "x: typing.Any says nothing about the type"),
    ("x: object", "x: object says nothing about the type"),
    ("x", "the parameter x has no annotation"),
    ("x: list", "x: list says nothing about its items: list[int] does"),
    ("x: dict", "x: dict says nothing about its items"),
    ("x: set[int]", "x: set[int] has no C type"),
    ("x: complex", "x: complex has no C type"),
    ("x: bytearray", "x: bytearray has no C type"),
    ("x: datetime.date", "x: datetime.date has no C type"),
    ("x: Colour", "x: Colour has no C type"),
    ("x: typing.Callable[[int], int]", "has no C type"),
    ("x: typing.Literal['a']", "has no C type"),
    ("x: typing.TypeVar('T')", "has no C type"),
    ("x: typing.Union[int, str]", "is one of several types"),
    ("x: typing.Union[int, str, None]", "is one of several types"),
    ("x: typing.Optional[typing.Any]", "says nothing about the type"),
    ("x: list[typing.Any]", "says nothing about the type"),
    ("x: None", "x: None alone is for results only"),
    ("x: typing.Iterator[int]", "is for results only"),
    ("x: tuple[()]", "has no items"),
    ("x: dict[float, int]", "has keys that are neither str nor int"),
    ("x: numpy.ndarray", "is of no certain dtype"),
    ("x: numpy.typing.NDArray[typing.Any]", "is of no certain dtype"),
    ("x: numpy.typing.NDArray[numpy.floating]", "is of no certain dtype"),
    ("x: numpy.typing.NDArray[numpy.str_]", "is of no certain dtype"),
    ("x: Node", "x: Node has a field next: Optional[bad.Node], which contains itself"),
    ("x: Odd", "x: Odd has a field when: date, which has no C type"),
    ("x: Made", "x: Made cannot be made: its __init__ does not take its field n"),
    ("x: Empty", "x: Empty has no fields"),
    ("x: Lost", "x: Lost has fields whose annotations raise NameError: name 'nowhere' is not defined"),
    ("x: typing.Literal[[]]", "has no C type"),
    ("x: missing.Type", "x: missing.Type: NameError: name 'missing' is not defined"),
    ("**x: int", "**x has no fixed names"),
    ("\u00e4: int", "\u00e4 is no name in C"),
]

HEAD = """from __future__ import annotations
import dataclasses, datetime, enum, typing, numpy, numpy.typing
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Node:
    next: typing.Optional[Node]
@dataclasses.dataclass
class Odd:
    when: datetime.date
@dataclasses.dataclass
class Made:
    n: int = dataclasses.field(init=False)
@dataclasses.dataclass
class Empty:
    pass
@dataclasses.dataclass
class Lost:
    x: nowhere.Type
"""


@test
def what_has_no_c_type_is_an_error_with_file_line_and_type():
    lines = HEAD.count("\n")
    write("bad.py", HEAD + "".join(f"def f{i}({parameter}) -> int: ...\n"
                                   for i, (parameter, error) in enumerate(UNSUPPORTED)))
    ended = check(stubs("bad", "--output", "."), 1, "")
    said = ended.err.splitlines()
    equal(len(said), len(UNSUPPORTED), ended.err)
    for i, (parameter, error) in enumerate(UNSUPPORTED):
        where = f"bad.py:{lines + i + 1}: f{i}: "
        assert said[i].startswith(where) and error in said[i], (parameter, said[i])
    assert not os.path.exists("bad.h"), "nothing is written"


@test
def results_are_looked_at_too():
    write("bad.py", "import typing\n\n\ndef f():\n    pass\n\n\ndef g(\n    x: int,\n) -> typing.Any:\n    pass\n")
    check(stubs("bad"), 1, "", ["bad.py:4: f: the result has no annotation",
                                "bad.py:10: g: return: typing.Any says nothing about the type"])


@test
def a_module_that_cannot_be_imported_is_an_error_as_of_any_call():
    write("raises.py", "1 / 0\n")
    check(stubs("raises"), 1, "", "ZeroDivisionError: division by zero")
    write("dies.py", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    check(stubs("dies"), 4, "", "killed by signal 11")
    check(stubs("is_not_there"), 1, "", "ModuleNotFoundError: No module named 'is_not_there'")
    check(stubs("json"), 1, "", "has no annotation")
    write("nothing.py", "x = 1\n")
    check(stubs("nothing"), 1, "", "nothing.py:1: defines no function")


@test
def the_command_line_is_checked():
    check(stubs(), 2, "", "MODULE is missing")
    check(stubs("a", "b"), 2, "", "one MODULE at a time")
    check(stubs("math", "--output", ".", "--c-header", "x.h"), 2, "", "--output is for")
    write("m.py", "def f(a: int) -> int: ...\n")
    check(stubs("m", "--int", "short"), 1, "", "--int: short is none of int64_t")
    check(stubs("m", "--prefix", "a-b"), 1, "", "--prefix: a-b is no name in C")
    check(stubs("m", "--crew", "int"), 1, "", "--crew: int is no name in C")
    check(stubs("m", "--only", "g"), 1, "", "g: there is no such function")
    check(stubs("m", "--output", "none"), 1, "", "none/m.h: No such file")
    equal([name for name in os.listdir(".") if name.endswith(".new")], [])


@test
def two_things_of_one_name_in_c_are_an_error():
    write("m.py", "def f(a: int) -> int: ...\ndef f_get(a: int) -> int: ...\n")
    check(stubs("m"), 1, "", "m_f_get would be the name of f and of f_get")
    check(stubs("m", "--only", "f"), 0)
    write("m.py", "def detail(a: int) -> int: ...\n")
    check(stubs("m"), 1, "", "detail would be the name of")
    check(stubs("m", "--c-header", "m.h"), 0)


@test
def files_are_named_by_the_prefix_or_one_by_one():
    os.makedirs("a/b")
    write("a/b/ops.py", '"""*/ a module"""\ndef f(a: int) -> int: ...\ndef _g(a): ...\n')
    write("list.py", "__all__ = ['_f']\ndef _f(a: int) -> int: ...\ndef g(a): ...\n")
    check(stubs("a.b.ops"), 0, "")
    assert all(os.path.exists("a_b_ops" + end) for end in (".h", ".c", ".hpp"))
    assert "int a_b_ops_f(pycrew_crew *crew, int64_t a, int64_t *ret);" in read("a_b_ops.h")
    check(stubs("a.b.ops", "--prefix", "ops_", "--c-header", "x.h", "--depfile", "x.d"), 0, "")
    assert "int ops_f(" in read("x.h") and not os.path.exists("ops.h")
    assert read("x.d").startswith("x.h: ") and "a/b/ops.py" in read("x.d")
    check(stubs("list"), 0)
    assert "int list__f(" in read("list.h") and "list_g" not in read("list.h")
    check(stubs("a.b.ops", "--crew", "my_crew", "--int", "int"), 0)
    assert "int a_b_ops_f(int a, int *ret);" in read("a_b_ops.h") and "pycrew.h" not in read("a_b_ops.h")


@test
def the_same_module_gives_the_same_text():
    check(stubs("stub_ops"), 0)
    first = [read("stub_ops" + end) for end in (".h", ".c", ".hpp")]
    check(stubs("stub_ops"), 0)
    equal([read("stub_ops" + end) for end in (".h", ".c", ".hpp")] == first, True)
    assert OPS not in "".join(first), "no path is in it"


@test
def c11_compiles_without_a_warning():
    check(stubs("stub_ops"), 0)
    check(stubs("stub_ops", "--prefix", "sized_", "--sized-str", "--int", "int"), 0)
    check(stubs("stub_ops", "--prefix", "own_", "--crew", "the_crew", "--int", "long"), 0)
    for compiler in COMPILERS:
        for name in "stub_ops.c", "sized.c", "own.c":
            equal(compiled(compiler, "-std=c11", "-O1", "-c", "-o", "out.o", name), 0, name)


@test
def cpp17_and_cpp20_compile_without_a_warning():
    check(stubs("stub_ops"), 0)
    write("all.cpp", '#include "stub_ops.h"\n#include "stub_ops.hpp"\nint main() {}\n')
    for compiler in COMPILERS:
        for standard in "c++17", "c++20":
            equal(compiled(cpp_compiler(compiler), "-std=" + standard, "-fsyntax-only", "all.cpp"), 0, standard)


@test
def a_class_of_many_fields_is_more_than_a_string_literal_may_hold():
    write("wide.py", "import dataclasses\n@dataclasses.dataclass\nclass Wide:\n" +
          "".join(f"    a_rather_long_name_of_a_field_{i}: int\n" for i in range(100)) +
          "def same(w: Wide) -> Wide:\n    return w\n")
    check(stubs("wide"), 0)
    equal(compiled("gcc", "-std=c11", "-c", "-o", "out.o", "wide.c"), 0)
    assert "pycrew_add_i64(call, value->a_rather_long_name_of_a_field_99)" in read("wide.c")


USER = """#include "ops.h"
int use(pycrew_crew *crew);
int use(pycrew_crew *crew)
{
    int64_t sum;
    return ops_add(crew, 1, 2, &sum);
}
"""
MAKEFILE = """ops.h: ops.py
\t%s
-include ops.d
"""


@test
def a_changed_signature_does_not_compile_at_the_call():
    write("use.c", USER)
    right = "def add(a: int, b: int) -> int: ...\n"
    for module, at_fault in [(right, None),
                             ("def add(a: int) -> int: ...\n", "use.c:6"),
                             ("def add(a: int, b: int, c: int) -> int: ...\n", "use.c:6"),
                             ("def add(a: int, b: int) -> float: ...\n", "use.c:6"),
                             ("def add(a: int, b: str) -> int: ...\n", "use.c:6"),
                             ("def add(a: int, b: int) -> str: ...\n", "use.c:6"),
                             ("def plus(a: int, b: int) -> int: ...\n", "use.c:6")]:
        write("ops.py", module)
        check(stubs("ops"), 0)
        said = compiled("gcc", "-std=c11", "-fsyntax-only", "use.c")
        assert (said == 0) if at_fault is None else (said != 0 and at_fault in said), (module, said)


@test
def make_writes_them_anew_when_the_module_or_what_it_imports_has_changed():
    word = " ".join(command("stubs", "ops", "--c-header", "ops.h", "--depfile", "ops.d"))
    write("Makefile", MAKEFILE % word)
    write("types_of_ops.py", "Number = int\n")
    write("ops.py", "from types_of_ops import Number\ndef f(a: Number) -> int: ...\n")

    def make():
        return subprocess.run(["make", "ops.h"], capture_output=True, text=True, check=True).stdout
    make()
    assert "int64_t a" in read("ops.h")
    assert "up to date" in make()
    for file, text, expected in [("ops.py", "from types_of_ops import Number\ndef g(a: Number) -> int: ...\n", "ops_g("),
                                 ("types_of_ops.py", "Number = float\n", "double a")]:
        write(file, text)
        os.utime(file, (os.path.getmtime("ops.h") + 5,) * 2)
        make()
        assert expected in read("ops.h"), (file, read("ops.h"))
        os.utime("ops.h", (os.path.getmtime(file) + 5,) * 2)


main()
