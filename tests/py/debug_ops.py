"""What tests/debug.t calls, on a terminal."""
import os
import sys
import time


def stops(value):
    doubled = value * 2
    breakpoint()
    return doubled + 1


def spins(seconds):
    print("spinning", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "to the end"


def on_terminal():
    return [os.isatty(fd) for fd in (0, 1)] + [sys.stdin.fileno()]


def asks(question):
    return input(question)


def init_stops():
    breakpoint()
