"""Called by tests/steps: each call leaves its mark before it does anything else. The marks are one
byte a call, in a file that the test has mapped, too: they survive the worker that made them."""

import mmap
import os

with open(os.environ["PYCREW_STEPS_MARKS"], "r+b") as _file:
    _marks = mmap.mmap(_file.fileno(), 0)


def add(index, a, b):
    _marks[index] += 1
    return a + b


def big(index, size):
    _marks[index] += 1
    return bytes([index % 251]) * size


def grow(index):
    """Outgrows the slot, then one block after the other."""
    _marks[index] += 1
    return ["a" * 3000, "b" * 5000, "c" * 10000, "d" * 20000]


def element(index):
    """One of a column, whose elements are the marks."""
    _marks[index] += 1
    return index + 7


def ping():
    return os.getpid()


def die():
    os._exit(3)
