#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# CONTRIBUTING.md and doc/invariants.md name what there is: files, functions, tests, targets of make.
import glob
import os
import re
import sys

TOP = os.environ.get("top_srcdir") or os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def exists(path):
    return os.path.exists(os.path.join(TOP, path))


def has_word(path, word):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", read(path)) is not None


def rows(part):
    """(names of files, names in them) of each row below the line `part:`."""
    for section in re.split(r"^## ", read("doc/invariants.md"), flags=re.M)[1:]:
        below = re.split(r"^(\w+):$", section, flags=re.M)
        for title, text in zip(below[1::2], below[2::2]):
            for row in re.findall(r"^- (.*)$", text, flags=re.M) if title == part else []:
                spans = re.match(r"((?:`[^`]+`(?:, )?)+)(?:: |; |$)((?:`[^`]+`(?:, )?)*)", row)
                yield (row, [], []) if not spans else (row, *(re.findall("`([^`]+)`", s) for s in spans.groups()))


def every_invariant_of_the_design_has_its_section():
    design = re.search(r"^## 1\. What must hold\n(.*?)^\*\*", read("doc/design.md"), re.M | re.S).group(1)
    wanted = [" ".join(item.split()) for item in re.findall(r"^(\d+\. .*?)(?=^\d+\. |^$|\Z)", design, re.M | re.S)]
    found = re.findall(r"^## (.*)$", read("doc/invariants.md"), re.M)
    yield from (f"doc/design.md has: {item}" for item in wanted if item not in found)
    yield from (f"doc/invariants.md has: {item}" for item in found if item not in wanted)
    if not wanted:
        yield "doc/design.md has no list in section 1"


def every_section_names_code_and_tests():
    for section in re.split(r"^## ", read("doc/invariants.md"), flags=re.M)[1:]:
        for part in "Code", "Tests":
            if not re.search(rf"^{part}:\n\n- `", section, re.M):
                yield f"no {part} in: {section.splitlines()[0]}"


def the_code_that_is_named_exists():
    for row, files, names in rows("Code"):
        if not files:
            yield f"names no file: {row}"
        for path in files:
            if not exists(path):
                yield f"no file {path}"
                continue
            yield from (f"{path} has no {name}" for name in names if not has_word(path, name))


def source_of(program):
    """The file of a test program as tests/local.mk lists it, or None."""
    for ending in ".c", ".cpp", "":
        if os.path.isfile(os.path.join(TOP, program + ending)):
            return program + ending
    return None


def the_tests_that_are_named_exist():
    for row, files, names in rows("Tests"):
        if not files:
            yield f"names no program: {row}"
        for program in files:
            path = source_of(program)
            if path is None:
                yield f"no program {program}"
            elif path.endswith(".c") or path.endswith(".cpp"):
                yield from (f"{path} has no test {name}" for name in names
                            if not re.search(rf"^TEST\w*\({name}[,)]", read(path), re.M))
                if not names:
                    yield f"names no test of {program}"
            else:
                yield from (f"{path} has no {name}" for name in names if not has_word(path, name))
            if path and not has_word("tests/local.mk", program) and not path.startswith("tests/model/"):
                yield f"{program} is not in tests/local.mk"


def targets_of_make_that_are_named_exist():
    rules = "".join(read(os.path.relpath(path, TOP)) for path in
                    [os.path.join(TOP, "Makefile.am"), *glob.glob(os.path.join(TOP, "*", "local.mk")),
                     os.path.join(TOP, "tests", "model", "local.mk")])
    automakes = {"check", "distcheck", "all", "install"}
    for target in re.findall(r"`make (?:-C build )?([a-z][\w-]*)", read("CONTRIBUTING.md")):
        if target not in automakes and not re.search(rf"^{target}:", rules, re.M):
            yield f"no target {target}"


def files_that_contributing_names_exist():
    text = read("CONTRIBUTING.md")
    for path in re.findall(r"`((?:lib|worker|cli|fortran|doc|tests|examples|bench|\.ci)/[\w./-]+)`", text):
        if not exists(path) and source_of(path) is None:
            yield f"no file {path}"
    design = read("doc/design.md")
    for number in re.findall(r"section (\d+)", text):
        if not re.search(rf"^## {number}\. ", design, re.M):
            yield f"doc/design.md has no section {number}"
    for path, anchor in re.findall(r"\]\(([\w./-]+)#([\w-]+)\)", text):
        titles = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in re.findall(r"^#+ (.*)$", read(path), re.M)]
        if anchor not in titles:
            yield f"{path} has no section #{anchor}"


CLAIMS = [every_invariant_of_the_design_has_its_section, every_section_names_code_and_tests,
          the_code_that_is_named_exists, the_tests_that_are_named_exist, targets_of_make_that_are_named_exist,
          files_that_contributing_names_exist]


def main():
    failed = 0
    print(f"1..{len(CLAIMS)}")
    for number, claim in enumerate(CLAIMS, 1):
        problems = list(claim())
        failed += bool(problems)
        print(f"{'not ok' if problems else 'ok'} {number} - {claim.__name__}")
        for problem in problems:
            print("#", problem)
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
