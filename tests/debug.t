#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# --debug: a worker on a terminal (a pseudo-terminal here), where breakpoint() works, ^C is for pdb and not
# for the host, and the terminal is the host's again whatever becomes of the worker.
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *

PROMPT = "(Pdb) "


class Session:
    """A program with a terminal of its own. stdin: the terminal, or this end of a pipe."""

    def __init__(self, *words, stdin=None, program=None):
        self.seen = ""
        words = [program] if program else command(*words)
        reader = writer = None
        if stdin == "pipe":
            reader, writer = os.pipe()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            if reader is not None:
                os.dup2(reader, 0)
                os.close(reader)
                os.close(writer)
            os.environ["TERM"] = "dumb"
            os.execv(words[0], words)
        if reader is not None:
            os.close(reader)
        self.input = writer

    def read_until(self, text, seconds=LIMIT_S):
        """All up to the text, which is taken; fails when it does not come."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            data = b""
            if ready:
                try:
                    data = os.read(self.terminal, 65536)
                except OSError:
                    pass
            if not data:
                raise AssertionError(f"no {text!r} came: {self.seen!r}")
            self.seen += data.decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def send(self, text):
        os.write(self.terminal, text.encode())

    def interrupt_until(self, text):
        """^C. Python's readline may begin to wait for input just after it, and see it with the next."""
        for _ in range(10):
            self.send("\x03")
            try:
                return self.read_until(text, LIMIT_S / 20)
            except AssertionError:
                continue
        return self.read_until(text)

    def in_front(self):
        return struct.unpack("i", fcntl.ioctl(self.terminal, termios.TIOCGPGRP, b"\0" * 4))[0]

    def await_host_in_front(self):
        end = time.monotonic() + LIMIT_S
        while self.in_front() != self.pid:
            if time.monotonic() > end:
                raise AssertionError("the host does not get its terminal back")
            time.sleep(0.001)

    def end(self):
        """The exit status, and what was printed since the last look."""
        if self.input is not None:
            os.close(self.input)
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.terminal)
        return status, self.seen


def ended(session, status, text):
    code, seen = session.end()
    equal(code, status, seen)
    if text not in seen:
        raise AssertionError(f"{text!r} is not in {seen!r}")


@test
def a_breakpoint_stops_and_goes_on():
    session = Session("call", "--debug", "debug_ops:stops", "21")
    session.read_until(PROMPT)
    session.send("p doubled, value\n")
    session.read_until("(42, 21)")
    session.read_until(PROMPT)
    session.send("c\n")
    ended(session, 0, "43")


@test
def an_interrupt_at_the_prompt_is_pdbs_and_ends_neither_host_nor_worker():
    session = Session("call", "--debug", "debug_ops:stops", "4")
    session.read_until(PROMPT)
    session.interrupt_until("KeyboardInterrupt")
    session.send("\n")
    session.read_until(PROMPT)
    session.send("p value\n")
    session.read_until("4")
    session.send("c\n")
    ended(session, 0, "9")


@test
def an_interrupt_ends_the_function_and_not_the_host():
    session = Session("call", "--debug", "debug_ops:spins", "100")
    session.read_until("spinning")
    session.send("\x03")
    ended(session, 1, "KeyboardInterrupt")


@test
def a_stop_character_is_ignored():
    session = Session("call", "--debug", "debug_ops:stops", "4")
    session.read_until(PROMPT)
    session.send("\x1a")
    session.send("p value + 100\n")
    session.read_until("104")
    session.send("c\n")
    ended(session, 0, "9")


@test
def there_are_no_deadlines():
    session = Session("call", "--debug", "--timeout", "50ms", "--grace", "10ms", "debug_ops:stops", "4")
    session.read_until(PROMPT)
    time.sleep(0.3)  # well past the deadline and the grace
    session.send("c\n")
    ended(session, 0, "9")


@test
def a_breakpoint_in_init_works_too():
    session = Session("call", "--debug", "--init", "debug_ops:init_stops", "debug_ops:asks", "name? ")
    session.read_until(PROMPT)
    session.send("c\n")
    session.read_until("name? ")
    session.send("Ada\n")
    ended(session, 0, '"Ada"')


@test
def stdin_and_stdout_are_the_terminal_also_where_the_hosts_are_not():
    session = Session("map", "--debug", "--star", "debug_ops:on_terminal", stdin="pipe")
    os.write(session.input, b"[]\n")
    session.read_until("[true, true, 0]")
    equal(session.end()[0], 0)


@test
def the_terminal_is_the_hosts_between_calls_and_the_interrupt_too():
    session = Session("map", "--debug", "debug_ops:stops", stdin="pipe")
    session.await_host_in_front()
    for value in 5, 6:
        os.write(session.input, f"{value}\n".encode())
        session.read_until(PROMPT)
        if session.in_front() == session.pid:
            raise AssertionError("the worker is not in front")
        session.send("c\n")
        session.read_until(str(2 * value + 1))
        session.await_host_in_front()
    session.send("\x03")
    session.read_until("^C")  # echoed when the signal has been sent
    equal(session.end()[0], 130)


@test
def a_worker_that_dies_at_the_prompt_leaves_the_terminal_to_the_host():
    session = Session("map", "--debug", "debug_ops:stops", stdin="pipe")
    os.write(session.input, b"5\n")
    session.read_until(PROMPT)
    session.send("import os; os.kill(os.getpid(), 9)\n")
    session.await_host_in_front()
    os.write(session.input, b"6\n")
    session.read_until(PROMPT)
    session.send("c\n")
    session.read_until("13")
    equal(session.end()[0], 1)


@test
def without_a_terminal_it_is_a_crew_of_one():
    check(run("call", "--debug", "debug_ops:spins", "0", start_new_session=True), 0)


@test
def the_example_does_what_its_readme_says():
    session = Session(program=os.path.join(BUILD, "examples", "debug", "debug"))
    session.read_until(PROMPT)
    session.send("total += 9\n")
    session.read_until(PROMPT)
    session.send("c\n")
    ended(session, 0, "the mean is 6")


@test
def more_than_one_worker_is_refused():
    ended = check(run("call", "--debug", "-j", "2", "debug_ops:stops", "1"), 2)
    if "options.debug" not in ended.err:
        raise AssertionError(ended)


main()
