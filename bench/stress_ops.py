"""The Python side of pycrew-stress: each call leaves its mark, so that the host can tell afterwards
which ones ran. The marks are one byte a call, in a file both sides have mapped: they survive the
worker that made them."""

import mmap
import os
import time

with open(os.environ["PYCREW_STRESS_MARKS"], "r+b") as _file:
    _marks = mmap.mmap(_file.fileno(), 0)


def add(index, a, b):
    # A few stay here, before or after their mark, for long enough to be killed in mid-call.
    if index % 1024 == 1:
        time.sleep(0.001)
    _marks[index] += 1
    if index % 1024 == 2:
        time.sleep(0.001)
    return a + b


def echo(index, data):
    _marks[index] += 1
    return data
