"""Functions that the tests of tests/big call: big values, long flows, and where the memory goes."""

import os
import threading
import time

import pycrew

try:
    import numpy as np
except ImportError:
    np = None

MIB = 1 << 20
MASK = (1 << 64) - 1


def pid():
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)


def same(value):
    return value


def checksum(value):
    """Of the value's 64-bit words, MiB by MiB; so it tells where each of them stands."""
    result = 0
    for start in range(0, len(value), MIB):
        block = value[start:start + MIB]
        if isinstance(block, str):
            block = block.encode()
        block = bytes(block)
        words = np.frombuffer(block + bytes(-len(block) % 8), "<u8")
        result = (result * 31 + int(words.sum(dtype="u8"))) & MASK
    return result


def keyword_behind(value, behind):
    return [len(value), checksum(value), behind]


# ---- arrays

def marks(a, places):
    return [a[place].item() for place in places] + [a.shape[0], a.nbytes]


def rest(a, start):
    return a[start:]


def set_marks(a, places):
    for number, place in enumerate(places):
        a[place] = number + 1


def empty_marked(count, places):
    a = pycrew.empty(count, "u1")
    set_marks(a, places)
    return a


def add_one(a):
    return a + np.uint8(1)


def add(a, b):
    return a + b


# ---- values

def turned(record):
    return {"id": record["id"] + 1, "text": record["text"][::-1], "sum": sum(record["values"]),
            "none": None}


def depth(value):
    """How deep it goes by its last item, and what is at the bottom."""
    levels = 0
    while isinstance(value, (list, tuple, dict)):
        levels += 1
        value = list(value.values())[-1] if isinstance(value, dict) else value[-1]
    return [levels, value]


def nested(levels):
    value = 7
    for level in range(levels):
        value = ([level, value], (value,), {"level": level, "value": value})[level % 3]
    return value


# ---- memory

held = []


def has_numpy():
    return np is not None


def text_of(size):
    return b"x" * size


def empty_first(size):
    """The first byte of each page is written; the rest is as it comes."""
    a = pycrew.empty(size, "u1")
    a[::4096] = 1
    return a


def empty_or_error(size):
    try:
        return len(pycrew.empty(size, "u1"))
    except MemoryError as error:
        return -len(str(error))


def zeros(size):
    return np.zeros(size, "u1")


def take_all(step):
    """Private memory, until somebody puts an end to it."""
    while True:
        held.append(b"y" * step)


def first_and_last(a):
    return int(a[0]) + int(a[-1])


# ---- flows

def ends(a):
    return [float(a[0] + a[-1]), len(a)]


def swapped(a):
    """An array in memory of the crew, its ends those of a, the other way round."""
    b = pycrew.empty(len(a))
    b[:] = a
    b[0], b[-1] = a[-1], a[0]
    return b


def total(a, b):
    return a + b


def upper(number, text):
    return [number, text.upper()]


def doubled(value):
    return value * 2


# ---- copies

def add_one_to(a, out):
    np.add(a, 1, out=out)


def empty_ones(count):
    a = pycrew.empty(count)
    a[0] = a[-1] = 1
    return a


def numpys_own(count):
    return np.empty(count)
