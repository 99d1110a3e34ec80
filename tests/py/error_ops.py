"""Functions for tests/test-errors.c, tests/test-errors-arrays.c and tests/test-errors-python.c."""
import builtins
import os
import sys

import pycrew
from pycrew import host

error_ops = sys.modules[__name__]


class _Late:
    """A module, imported when it is used."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        import importlib
        return getattr(importlib.import_module(self._name), name)


numpy = _Late("numpy")


def evaluate(text):
    return eval(text)


def odd_stride():
    """Each second byte's int16, which no DLPack tensor can say."""
    return numpy.ndarray((3,), "<i2", pycrew.empty(9, "u1"), 0, (3,))



def one():
    yield 1


def endless():
    while True:
        yield 1


def slow():
    import time
    time.sleep(60)
    yield 1


class Asker:
    def ask(self):
        return host.inside()

    def get(self):
        return 42


def ask_early():
    host.describe("a")


def in_child(text):
    """What evaluating it in a child process of the worker raises, raised here."""
    ends = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            eval(text)
        except BaseException as error:
            os.write(ends[1], f"{type(error).__name__}\n{error}".encode())
        os._exit(0)
    os.close(ends[1])
    with open(ends[0]) as file:
        name, _, words = file.read().partition("\n")
    os.waitpid(child, 0)
    raise getattr(builtins, name)(words)


class _Shrinks:
    def __init__(self, values):
        self.values = values

    def __reduce__(self):
        self.values.clear()
        return int, ()


def changing():
    """A list that is emptied while it is given to the host."""
    values = []
    values += [_Shrinks(values), 1, 2, 3]
    return values


def init_later():
    """Once the file is there, it says what becomes of workers."""
    import time
    path = os.environ["ERROR_OPS_LATER"]
    if os.path.exists(path):
        with open(path) as file:
            how = file.read()
        if how == "fail":
            raise RuntimeError("not today")
        time.sleep(60)


def stubborn(path):
    """Holds the GIL for ever. No bytecode is between the note that it has begun and that: it cannot be interrupted."""
    import collections
    import itertools
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    collections.deque(itertools.chain(map(os.write, [file], [b"x"]), itertools.repeat(0)), maxlen=0)
