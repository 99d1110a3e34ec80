"""Functions that tests map columns through."""

import os
import signal
import time

try:
    import numpy as np
except ImportError:
    np = None

kept = []


# ---- element by element ----

def add(a, b):
    return a + b


def same(x):
    return x


def ten():
    return 10


def first(*arguments):
    return arguments[0]


def type_code(x):
    """Which type came."""
    return [bool, int, float, complex].index(type(x))


def constant_text(x):
    return "text"


def nothing(x):
    return None


def numpy_of(x):
    return np.int64(x)


def numpy_bool(x):
    return np.bool_(x > 2)


def numpy_float(x):
    return np.float32(x)


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def index_of(x):
    return Index(x)


class BadIndex:
    def __index__(self):
        raise RuntimeError("no index today")


def bad_index(x):
    return BadIndex()


def huge(x):
    return 10 ** x


def large_float(x):
    return 1e300


def reciprocal(x):
    return 1 / x


def not_thirteens(x):
    if x % 13 == 0:
        raise ValueError(f"{x} is a multiple of 13")
    return x


def not_seven(x):
    if x == 7:
        raise ValueError("seven")
    return x


def dies_at(x, at):
    if x == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def doubled(x):
    return 2 * x


def sleeps_at(x, at):
    if x == at:
        time.sleep(60)
    return 2 * x


def stubborn_at(x, at):
    """At one element days in C, which nothing but a kill ends."""
    if x == at:
        sum(range(10 ** 14))
    return 2 * x




def dies_once(x):
    """The seventh element's function dies, but for the second time."""
    if x == 7:
        try:
            os.close(os.open(os.environ["MAP_MARK"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return 2 * x
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def counts(x):
    """A byte more in a file for each element that runs."""
    with open(os.environ["MAP_MARK"], "ab", buffering=0) as file:
        file.write(b".")
    return x


def slow(x):
    time.sleep(0.002)
    return x


def slow_first(x, at):
    time.sleep(0.002)
    return x


def forks(x):
    """A child comes out of the function, too."""
    if x == 3:
        os.fork()
    return x


# ---- by slices ----

def whole_add(a, b):
    return a + b


def whole_out(a, out):
    out[...] = a * 2


def whole_describe(a):
    """All a slice is, checked here; its answer is one number a row."""
    if a.flags.writeable:
        raise AssertionError("writable")
    return a.reshape(len(a), -1).sum(axis=1)


def whole_wrong_shape(a):
    return a[:-1] if len(a) > 1 else np.concatenate([a, a])


def whole_scalar(a):
    return 1.0


def whole_complex(a):
    return a * 1j


def whole_list(a):
    return [float(x) for x in a]


def whole_keeps(a):
    kept.append(a)
    return a


def whole_kept():
    return float(sum(k.sum() for k in kept))


def whole_length(a):
    return np.full(len(a), len(a), dtype=np.int64)


def whole_increment(out):
    out += 1


def whole_dies_at(a, at):
    if (a == at).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return a * 2


def whole_sleeps_at(a, at):
    if (a == at).any():
        time.sleep(60)
    return a * 2


def whole_dies_once(a, out):
    out += a
    if (a == 7).any():
        try:
            os.close(os.open(os.environ["MAP_MARK"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return None
        os.kill(os.getpid(), signal.SIGKILL)


def whole_raises(a):
    raise ValueError("no slice is good")


def whole_year(a):
    return a.astype("M8[Y]").astype(np.int64) + 1970


def memory_slice(a):
    """Without numpy: a memoryview comes, a memoryview goes."""
    return memoryview(a)


