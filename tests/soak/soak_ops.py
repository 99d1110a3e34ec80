"""The Python side of pycrew-soak: each call writes down that it began, with what, and that it went to
its end, in memory of the test's own, which outlives the worker. ledger.h has the layout."""

import collections
import ctypes
import itertools
import mmap
import os
import re
import signal
import time
import zlib

with open(os.environ["PYCREW_SOAK_LEDGER"], "r+b") as _file:
    _map = mmap.mmap(_file.fileno(), 0)
_bytes = memoryview(_map)  # begun, left, changed
_words = _bytes.cast("I")  # the second of each two is what the arguments came to


def begin(index, check):
    """How often this call began before."""
    begun = _bytes[index * 8]
    if begun == 0:
        _words[index * 2 + 1] = check
    elif _words[index * 2 + 1] != check:
        _bytes[index * 8 + 2] = 1
    _bytes[index * 8] = begun + 1  # last: whoever began has said with what
    return begun


def leave(index):
    _bytes[index * 8 + 1] += 1


def sleep(microseconds):
    time.sleep(microseconds / 1e6)


def spin(_):
    while True:
        pass


def stick(_):
    """Holds the GIL for ever, and never looks for signals."""
    collections.deque(itertools.repeat(0), maxlen=0)


def match(_):
    re.match(r"(a+)+$", "a" * 64 + "b")


def swallow(_):
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def stop(_):
    os.kill(os.getpid(), signal.SIGSTOP)


DEATHS = (
    lambda: os._exit(7),
    os.abort,
    lambda: ctypes.string_at(0),
    lambda: os.kill(os.getpid(), signal.SIGKILL),
)

# By the numbers of enum op.
ADD, ECHO, FAIL, EXIT, ABORT, CRASH, KILL, DIE_ONCE, CHANGE = range(9)
OTHERS = {9: sleep, 10: spin, 11: stick, 12: match, 13: swallow, 14: stop}


def change_and_die(data):
    ctypes.memset(id(data) + bytes.__basicsize__ - 1, 0x7F, len(data))
    DEATHS[3]()


def call(index, op, a, b, data=b""):
    check = (index * 3 + op * 5 + a + b * 7 + zlib.adler32(data)) & 0xFFFFFFFF
    begun = begin(index, check)
    result = a + index
    if op == ECHO:
        result = data
    elif op == FAIL:
        raise ValueError(str(a))
    elif EXIT <= op <= KILL:
        DEATHS[op - EXIT]()
    elif op == DIE_ONCE and begun == 0:
        DEATHS[b % 4]()
    elif op == CHANGE and begun == 0:
        change_and_die(data)
    elif op > CHANGE:
        OTHERS[op](b)
    leave(index)
    return result
