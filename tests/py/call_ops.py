"""What tests/test-call.c and tests/test-value-trip.c call, beside api_ops."""
import collections
import enum
import sys
import threading
import time

import pycrew

# ---- exceptions ----


class OwnError(Exception):
    class Inner(Exception):
        """Its qualified name has a dot of its own."""


class Base(BaseException):
    pass


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("has a lock")
        self.lock = threading.Lock()


class Mute(Exception):
    def __str__(self):
        raise TypeError("no words")


class Quitting(Exception):
    def __str__(self):
        sys.exit(4)


class NotText(Exception):
    def __str__(self):
        return 5


class Demanding(Exception):
    """Cannot be made without arguments, nor unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def chain():
    try:
        {}["first"]
    except KeyError as error:
        raise RuntimeError("second") from error


def context():
    try:
        {}["first"]
    except KeyError:
        raise RuntimeError("while at it")


def raise_it(expression):
    raise eval(expression)


def recurse(depth=0):
    return recurse(depth + 1)


def group():
    raise ExceptionGroup("two of them", [ValueError("one"), OwnError("two")])


# ---- values ----


class OwnInt(int):
    pass


class OwnStr(str):
    pass


class OwnList(list):
    pass


class OwnDict(dict):
    pass


class Colour(enum.IntEnum):
    RED = 3


Point = collections.namedtuple("Point", "x y")


class Indexed:
    def __index__(self):
        return 77


def value(expression):
    """What the expression is, evaluated among the names of this module."""
    return eval(expression)


def is_value(got, expression):
    """Whether it is the same, types included."""
    wanted = eval(expression)
    return type(got) is type(wanted) and repr(got) == repr(wanted)


def echo_if_equal(got, expression=None):
    """got, if it is what the expression is. (By repr, which tells 1 from True, and -0.0 from 0.0.)"""
    if expression is not None and repr(got) != repr(eval(expression)):
        raise ValueError(f"{got!r:.500} arrived, not {eval(expression)!r:.500}")
    return got


def shown(*args, **kwargs):
    """All arguments as Python writes them."""
    return ", ".join([repr(a) for a in args] + [f"{k}={v!r}" for k, v in kwargs.items()])


def cut_pattern(size, seed=0):
    """size bytes that repeat only after 251, from seed on."""
    block = bytes((i + seed) % 251 for i in range(251))
    return (block * (size // 251 + 1))[:size]


def echo_and_check(data, size, seed=0):
    """data, if it arrived as it was."""
    if data != cut_pattern(size, seed):
        raise ValueError(f"{len(data)} bytes arrived, not the {size} that were sent")
    return data


def zeros_slowly(size):
    """So that as many of these run at once as there are workers."""
    time.sleep(0.003)
    return bytes(size)


def numpy_value(expression):
    import numpy

    return eval(expression, {"numpy": numpy})


# ---- where a call runs ----


def number_of_worker():
    return pycrew.worker


def seconds_left():
    return pycrew.deadline()


def is_pycrew_complete():
    """Whether DeadlineExceeded is what the texts say: no Exception, but a BaseException."""
    return not issubclass(pycrew.DeadlineExceeded, Exception) and issubclass(
        pycrew.DeadlineExceeded, BaseException
    )
