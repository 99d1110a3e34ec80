#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew map --trace and --report.
import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *
import trace_check


def numbers(count):
    return "".join(f"{i}\n" for i in range(count))


def trace_of(path):
    return trace_check.Trace(trace_check.read(path, False), False)


class Page(html.parser.HTMLParser):
    """Elements that are open, and what they are; text by the innermost element."""

    VOID = {"meta", "br"}

    def __init__(self, path):
        super().__init__()
        self.open, self.names, self.texts, self.attributes = [], set(), {}, []
        self.source = read(path).decode()
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.attributes += attributes
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.names.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        equal(self.open.pop(), tag)

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def text(self, tag):
        return "\n".join(self.texts.get(tag, []))


# ---- the trace ----


@test
def the_trace_of_a_map_has_its_records_in_chunks():
    check(run("map", "-j", 2, "--trace", "t.json", ":echo", give=numbers(5000)), 0, numbers(5000))
    trace = trace_of("t.json")
    equal(sum(e["args"]["ended"] for e in trace.chunks), 5000)
    equal({e["name"] for e in trace.chunks}, {"cli_ops:echo"})
    equal(trace.lost, 0)


@test
def a_worker_that_dies_is_in_the_trace():
    check(run("map", "-j", 2, "--trace", "t.json", ":die_on_seven", give=numbers(20)), 1)
    trace = trace_of("t.json")
    equal(len(trace.named("worker dies")), 1)
    equal([e["args"]["result"] for e in trace.chunks].count("died"), 1)


@test
def a_trace_that_cannot_be_written_is_said_before_anything_runs():
    check(run("map", "--trace", "no/such/t.json", ":echo", give="1\n"), 3, "",
          "options.trace: no/such/t.json: No such file or directory")
    check(run("map", "--trace", "no/such/t.json", "--report", "r.html", ":echo", give="1\n"), 2, "",
          "no/such/t.json: No such file or directory")
    assert not os.path.exists("r.html")
    check(run("map", "--report", "no/such/r.html", ":echo", give="1\n"), 2, "", "no/such/r.html: No such file")


@test
def files_that_are_there_are_not_overwritten():
    for option in "--trace", "--report":
        write("there", "precious")
        check(run("map", option, "there", ":echo", give="1\n"), 2, "", "there exists; --force overwrites it")
        equal(read("there"), b"precious")
        check(run("map", "--force", option, "there", ":echo", give="1\n"), 0, "1\n")
        assert read("there") != b"precious"
        write("in.jsonl", "1\n")
        check(run("map", "--force", option, "in.jsonl", ":echo", "in.jsonl"), 2, "", "is input and output")
        check(run("map", option, "out", "--output", "out", ":echo", give="1\n"), 2, "", "two purposes")
        os.unlink("out") if os.path.exists("out") else None


# ---- the page ----


@test
def the_page_says_how_it_went_and_needs_nothing_else():
    check(run("map", "-j", 2, "--report", "r.html", ":fail_on_odd", give=numbers(1000)), 1)
    page = Page("r.html")
    for name, figure in ("records done", "1\u202f000"), ("failed", "500"), ("workers", "2"):
        assert f"<dt>{name}</dt><dd" in page.source and figure in page.source, (name, page.source[:5000])
    assert "script" not in page.names and not page.names & {"link", "img", "iframe", "object"}, page.names
    assert not [a for a in page.attributes if a[0] in ("src", "href", "xlink:href")]
    assert "http" not in page.source.replace("http-equiv", "")
    equal(page.source.count("<svg "), 3)
    assert "Exit code 1: some records failed." in page.text("p"), page.text("p")
    assert "Traceback (most recent call last)" in page.text("pre")
    assert "pycrew map " in page.text("pre") and "--report r.html" in page.text("pre"), page.text("pre")


@test
def what_comes_from_data_is_text_in_the_page():
    write("evil_ops.py", "class Error(Exception):\n    pass\nError.__qualname__ = '</b><script>alert(1)</script>'\n"
          "def evil(value):\n    raise Error('</pre></script><img src=x onerror=alert(2)> & \"\\x1b[0m\\' ' + str(value))\n")
    check(run("map", "--report", "r.html", "--path", ".", "evil_ops:evil", "--env", "A=<i>'\"", give="1\n2\n"), 1)
    page = Page("r.html")
    assert not page.names & {"script", "img", "i"}, page.names
    assert "</script><img src=x onerror=alert(2)> & \"\ufffd[0m' 1" in page.text("p"), page.text("p")
    assert "<script>alert(1)</script>" in page.text("b"), page.text("b")
    assert "A=<i>" in page.text("pre")


@test
def each_type_of_error_is_there_with_its_first_traceback():
    write("many_ops.py", "def many(value):\n    raise type(f'Kind{value % 50}', (Exception,), {})(value)\n")
    check(run("map", "-q", "--report", "r.html", "--path", ".", "many_ops:many", give=numbers(500)), 1)
    page = Page("r.html")
    equal(page.source.count("<details"), 40)
    assert "100 of other types." in page.text("p"), page.text("p")[-500:]


@test
def deaths_and_kills_are_marked_and_the_trace_is_the_same():
    check(run("map", "-j", 2, "--timeout", "300ms", "--grace", "50ms", "--report", "r.html", "--trace", "t.json",
              ":die_on_seven", give=numbers(20)), 1)
    page, trace = Page("r.html"), trace_of("t.json")
    equal(page.source.count('<rect class="death"'), 1)
    equal(len(trace.named("worker dies")), 1)
    equal(page.source.count('<rect class="start"'), len(trace.named("worker starts")))


@test
def a_page_is_written_after_an_interrupt_and_a_halt():
    write("in.jsonl", numbers(1000))
    process = start("map", "-j", 1, "--report", "r.html", ":slow_echo", "in.jsonl")
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    ended = end(process)
    equal(ended.code, 130)
    assert "Exit code 130: stopped by a signal." in Page("r.html").text("p")
    check(run("map", "--halt", "now", "--report", "h.html", ":fail", give=numbers(10)), 5)
    assert "Exit code 5: halted" in Page("h.html").text("p")


@test
def a_map_of_nothing_has_a_page():
    check(run("map", "--report", "r.html", ":echo"), 0, "")
    assert "None ended." in Page("r.html").text("p")


@test
def a_dry_run_has_nothing_to_report():
    check(run("map", "--dry-run", "--report", "r.html", ":echo", give="1\n"), 2, "", "nothing to --report")
    assert not os.path.exists("r.html")


@test
def chromium_shows_the_page():
    chromium = shutil.which("chromium")
    if chromium is None:
        raise Skip("chromium is not installed")
    check(run("map", "-j", 2, "--report", "r.html", ":fail_on_odd", give=numbers(300)), 1)
    shown = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=profile",
                            "--enable-logging=stderr", "--dump-dom", "file://" + os.path.abspath("r.html")],
                           capture_output=True, timeout=LIMIT_S)
    dom = shown.stdout.decode()
    equal(shown.returncode, 0)
    for piece in "Records a second", "Workers", "Time of a record", "Errors by type", 'class="rate"', "ValueError":
        assert piece in dom, (piece, dom[:3000])
    assert "CONSOLE" not in shown.stderr.decode(), shown.stderr.decode()


main()
