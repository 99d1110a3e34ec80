"""Called by tests/steps: each call leaves its mark before it does anything else. The marks are one
byte a call, in a file that the test has mapped, too: they survive the worker that made them."""

import mmap
import os

import pycrew

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


class Counter:
    """An actor's: its calls see each other's order."""

    def __init__(self, index):
        _marks[index] = min(_marks[index] + 1, 255)  # it is made again and again
        self.calls = 0

    def count(self, index):
        _marks[index] += 1
        self.calls += 1
        return self.calls

    def close(self):
        self.calls = None


def items(index, first, count):
    """A stream: each item leaves its mark when it is made."""
    _marks[index] += 1
    return _items(first, count)


def _items(first, count):
    for index in range(first, first + count):
        _marks[index] += 1
        yield index


def ask(index):
    _marks[index] += 1
    return pycrew.host.twice(index)


def ask_big(index, size):
    """The request and the answer are too large for their record."""
    _marks[index] += 1
    return 2 * len(pycrew.host.turn(index, bytes([index % 251]) * size))
