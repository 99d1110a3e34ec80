"""Functions that tests of arrays in batches call."""

import os
import signal

import numpy as np

import pycrew

from array_ops import address, where

kept = []


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def filled(n, value):
    a = pycrew.empty(n)
    a[:] = value
    return a


def filled_where(n, value):
    """An array of our own, and where it is."""
    a = filled(n, value)
    return a, where("", a)


def filled_or_die(n, value, fatal):
    if value == fatal:
        kill_self()
    return filled(n, value)


def doubled(a):
    """Its elements twice, in memory that is not copied."""
    b = pycrew.empty(a.shape)
    np.multiply(a, 2, out=b)
    return b


def doubled_or_die(a, fatal):
    if a[0] == fatal:
        kill_self()
    return doubled(a)


def doubled_or_raise(a, fatal):
    b = doubled(a)
    if a[0] == fatal:
        return [b, lambda: None]
    return b


def add_in_place(a, value):
    a += value


def add_or_raise(a, value, fatal):
    a += value
    if value == fatal:
        raise ValueError("fatal")


def add_and_die_once(a, path):
    a += 1
    if not os.path.exists(path):
        open(path, "w").close()
        kill_self()
    return float(a[0])


def keep(a):
    kept.append(a)
    return float(a[0])


def kept_sum(a=None):
    return float(sum(float(k.sum()) for k in kept))


def let_go():
    kept.clear()


def first(a, b=0):
    """Of an array its first element; of a number itself."""
    return float(a[0]) + b if isinstance(a, np.ndarray) else float(a) + b


def nested(n, value):
    return {"arrays": [filled(n, value), np.full(n, value + 0.5)], "n": n}


def copied_after(path, a):
    """Waits until there is the file."""
    import time
    end = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.001)
    return doubled(a)


def nap_if(a, special, seconds):
    import time
    if a[0] == special:
        time.sleep(seconds)
    return float(a[0])
