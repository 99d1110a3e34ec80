#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# doc/guide.md does what it says: its blocks are written, compiled and run, from top to bottom, in one folder. Then
# README.md's program and commands, with files for the names in them.
# By hand: test-guide.t [--installed] [OTHER.md]
#
#   ```python shop.py     what has a name is a file; Python is compiled, and a C program built as NAME without .c,
#   ```c csv.c = examples/csv/csv.c     ... here it is that file of the source tree,
#   ```c embed.c with python3-embed     ... and it needs that package of pkg-config, else it is skipped
#   ```sh                 runs, and has to end with 0; `if COMMAND` behind it: only where that ends with 0
#   ```text               what the block before it prints; a C program is run for it. "..." is any text
import configparser
import fnmatch
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

TOP = os.environ.get("top_srcdir") or os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
BUILD = os.path.abspath(os.environ.get("top_builddir") or os.path.join(TOP, "build"))
INSTALLED = "--installed" in sys.argv  # the library that pkg-config and PATH find, and not the build tree's
GUIDE = next((word for word in sys.argv[1:] if word != "--installed"), os.path.join(TOP, "doc", "guide.md"))
README = os.path.join(TOP, "README.md")
LIMIT_S = 60 * float(os.environ.get("TAP_TIMEOUT_SCALE", 1))
LINES = 25  # of a program for a reader of the README, but for braces, #includes and blank lines
SHORT = ["examples/csv/csv.c", "examples/epoll/epoll.c", "examples/inplace/inplace.c"]

PC = f"""Name: pycrew
Description: of the build tree
Version: 0
Cflags: -I{TOP}/lib
Libs: -L{BUILD}/lib/.libs -lpycrew -Wl,-rpath,{BUILD}/lib/.libs
fortran={TOP}/fortran/pycrew.f90
"""

# What README.md's commands speak of.
FILES = {
    "points.jsonl": "[3, 4]\n[5, 12]\n",
    "in.csv": "name,price\ntea,3\nrum,none\n",
    "clean.py": "def row(record):\n    return {'name': record['name'], 'price': float(record['price'])}\n",
    "data/a.png": "", "data/b.png": "",
    "thumbs.py": "def make(path):\n    return path\n",
    "log.jsonl": "{\"level\": 1}\n",
    "alerts.py": "def check(record):\n    return str(record)\n",
    "model.py": "def score_list(records):\n    return [record['level'] for record in records]\n",
    "in.jsonl": "{\"level\": 1}\n{\"level\": 2}\n",
    "report.py": "def monthly(month):\n    return month\n",
}
# In their place: there is no end of a log, and this test has no folder in /.
INSTEAD = {"tail -f ": "tail -n +1 ", "/data ": "data "}
# A record that fails is 1, as map's manual says; other commands end with 0.
STATUS = {"pycrew map --timeout 10s": 1, "pycrew map --checkpoint": 1, "pycrew map --from-errors": 1,
          "pycrew map --report": 1}
# What packaging/fresh runs: the rest of the tests, minutes of benchmarks, an installation; and those that
# need what a newcomer's machine does not have, or a crew that runs.
ELSEWHERE = "./quickstart", "build/run ", "pycrew top", "make -C build bench", "./autogen.sh"
NEEDS = {"gfortran ": "gfortran"}


class Skip(Exception):
    pass


class Block:
    """A fenced block: its kind, its name or None, its text, and the words behind the name."""

    def __init__(self, line, info, text):
        words = info.split()
        self.line, self.kind, self.text = line, words[0] if words else "", text
        rest = words[1:]
        self.name = rest.pop(0) if rest and self.kind != "sh" else None
        self.more = " ".join(rest)
        self.used = False

    def after(self, word):
        return self.more[len(word) + 1:] if self.more.startswith(word + " ") else None


def read_blocks(path):
    blocks, inside = [], None
    with open(path, encoding="utf-8") as guide:
        for number, line in enumerate(guide, 1):
            if not line.lstrip().startswith("```"):
                if inside:
                    inside[2].append(line)
            elif inside:
                blocks.append(Block(inside[0], inside[1], "".join(inside[2])))
                inside = None
            else:
                inside = number, line.strip()[3:], []
    assert inside is None, f"the block of line {inside[0]} has no end"
    return blocks


def read_commands(path):
    """The indented lines that are no code: a command each, but for what is said behind several blanks."""
    commands, inside = [], False
    with open(path, encoding="utf-8") as readme:
        for number, line in enumerate(readme, 1):
            if line.startswith("```"):
                inside = not inside
            elif not inside and line.startswith("    "):
                commands.append((number, re.split(r"\s{3,}", line.strip())[0]))
    return [(number, text) for number, text in commands if not text.startswith(ELSEWHERE)]


def run(words, status=0, **options):
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=LIMIT_S, errors="replace", **options)
    assert ended.returncode == status, f"ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def flags(*packages):
    return shlex.split(run(["pkg-config", "--cflags", "--libs", *packages]))


def write(block):
    assert re.fullmatch(r"[\w.-]+", block.name), f"{block.name} is no name of a file"
    with open(block.name, "w", encoding="utf-8") as file:
        file.write(block.text)
    same = block.after("=")
    if same:
        with open(os.path.join(TOP, same), encoding="utf-8") as file:
            assert file.read() == block.text, f"this is not {same}"


def build(block):
    package = block.after("with")
    if package and subprocess.run(["pkg-config", "--exists", package]).returncode != 0:
        raise Skip(f"pkg-config knows no {package}")
    warnings = [] if package else ["-Wall", "-Wextra", "-Werror"]
    run(["cc", *warnings, block.name, *flags(package or "pycrew"), "-o", block.name[:-2]])


def shell(block):
    condition = block.after("if")
    if condition and subprocess.run(condition, shell=True, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip(f"{condition}: not here")
    return run(["sh", "-e", "-c", block.text])


def compare(said, expected):
    """Line by line; "..." within a line is any text."""
    said, expected = said.splitlines(), expected.splitlines()
    same = len(said) == len(expected) and all(
        fnmatch.fnmatchcase(a, re.sub(r"([\[?*])", r"[\1]", b).replace("...", "*")) for a, b in zip(said, expected))
    assert same, "it says\n" + "\n".join(said) + "\nand not\n" + "\n".join(expected)


class Guide:
    def __init__(self):
        self.before = None  # the block whose output a text may be
        self.output = None  # its output, an AssertionError or a Skip, or None: to be run
        self.programs = {}

    def do(self, block):
        if block.kind == "text" and not block.name:
            return self.text(block)
        self.before, self.output = block, None
        if block.kind == "sh":
            for name, program in self.programs.items():
                program.used |= f"./{name}" in block.text
            try:
                self.output = shell(block)
            except (AssertionError, Skip) as error:
                self.output = error
                raise
            return "runs"
        assert block.name, f"a block of {block.kind or 'no kind'} needs a name, or nothing tries it"
        write(block)
        if block.name.endswith(".py"):
            compile(block.text, block.name, "exec")
        elif block.name.endswith(".service"):
            configparser.ConfigParser(strict=True).read_string(block.text)
        elif block.name.endswith(".c"):
            self.programs[block.name[:-2]] = block
            try:
                build(block)
            except Skip as error:
                block.used, self.output = True, error
                raise
        return f"{block.name} is as it should be"

    def text(self, block):
        assert self.before is not None, "nothing stands before it"
        if isinstance(self.output, Skip):
            raise self.output
        assert not isinstance(self.output, AssertionError), "what stands before it failed"
        if self.output is None:
            assert self.before.name and self.before.name.endswith(".c"), "what stands before it is not run"
            self.before.used = True
            self.output = run(["./" + self.before.name[:-2]])
        compare(self.output, block.text)
        return "what is said is printed"

    def unused(self):
        return [name for name, program in self.programs.items() if not program.used]


def prepare_readme():
    """README.md's first program, its module with annotations, and what its commands speak of."""
    blocks = read_blocks(README)
    files = dict(FILES)
    files["hello.c"] = next(block.text for block in blocks if "int main" in block.text)
    files["shapes.py"] = "import dataclasses\n" + next(block.text for block in blocks if block.kind == "python")
    with open(os.path.join(TOP, "examples", "solve", "solve.f90"), encoding="utf-8") as file:
        files["main.f90"] = file.read()
    os.makedirs("readme/data")
    os.chdir("readme")
    for name, text in files.items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    run(["gzip", "in.csv"])


def command(text):
    for start, program in NEEDS.items():
        if text.startswith(start) and shutil.which(program) is None:
            raise Skip(f"no {program}")
    for mine, other in INSTEAD.items():
        text = text.replace(mine, other)
    run(["sh", "-e", "-c", text], next((STATUS[start] for start in STATUS if text.startswith(start)), 0))
    if text.startswith("cc hello.c"):
        compare(run(["./hello"]), "10 over 4 is 210")
    return "runs"


def length(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return sum(not re.fullmatch(r"\s*([{}]?|#include.*)\s*", line) for line in file)


def prepare():
    folder = tempfile.mkdtemp(prefix="pycrew-guide-")
    os.chdir(folder)
    e = os.environ
    if not INSTALLED:
        os.mkdir("pc")
        with open("pc/pycrew.pc", "w") as file:
            file.write(PC)
        e["PKG_CONFIG_PATH"] = os.path.join(folder, "pc")
        e["PATH"] = os.path.join(BUILD, "cli") + os.pathsep + e["PATH"]
        e.setdefault("PYCREW_WORKER", os.path.join(BUILD, "worker", "pycrew-worker"))
        e.setdefault("PYCREW_PYTHON_PATH", os.path.join(TOP, "python"))
    e["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in "OMP_NUM_THREADS", "PYTHONPATH":
        e.pop(name, None)
    return folder


def missing():
    """What has to be there, and is not."""
    for program in "cc", "pkg-config":
        if shutil.which(program) is None:
            return f"no {program}"
    if importlib.util.find_spec("numpy") is None:
        return "no numpy"
    library = os.path.join(BUILD, "lib", ".libs", "libpycrew.so")
    if INSTALLED:
        return None
    if not os.path.exists(library):
        return "built without the shared library"
    with open(library, "rb") as file:
        text = file.read()
    return "built with instrumentation" if b"__asan_init" in text or b"__tsan_init" in text else None


def main():
    blocks, commands, why = read_blocks(GUIDE), read_commands(README), missing()
    if why:
        print(f"1..0 # SKIP {why}")
        return
    folder, guide, failed = prepare(), Guide(), 0
    print(f"1..{len(blocks) + len(commands) + 2}", flush=True)

    def claim(number, name, action):
        nonlocal failed
        try:
            print(f"ok {number} - {name}: {action()}", flush=True)
        except Skip as why:
            print(f"ok {number} - {name} # SKIP {why}", flush=True)
        except Exception as error:
            failed += 1
            print(f"not ok {number} - {name}", flush=True)
            for line in f"{type(error).__name__}: {error}".splitlines():
                print("#", line)

    def all_used():
        assert not guide.unused(), f"never run: {', '.join(guide.unused())}"
        return "all"

    def all_short():
        long = [f"{path}: {length(path)} lines" for path in SHORT if length(path) > LINES]
        assert not long, "; ".join(long)
        return f"{LINES} lines"

    try:
        for number, block in enumerate(blocks, 1):
            claim(number, f"guide.md:{block.line} {block.name or block.kind}", lambda: guide.do(block))
        claim(len(blocks) + 1, "every program of the guide is run", all_used)
        claim(len(blocks) + 2, "a program for a reader of the README is short", all_short)
        prepare_readme()
        for number, (line, text) in enumerate(commands, len(blocks) + 3):
            claim(number, f"README.md:{line} {text.split('#')[0].strip()}", lambda: command(text))
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
