"""Called by tests/fail. Imports as little as it can: each run of a test starts an interpreter anew."""
import os
import time

import pycrew

kept = []


def add(a, b):
    return a + b


def ask(size):
    """The host gives back what it is given."""
    return len(pycrew.host.echo(b"x" * size))


def echo(value):
    return value


def numbers(first, count):
    """Outgrows the slot."""
    return list(range(first, first + count))


def add_length(number, text):
    """One raises, one dies."""
    if number == 100:
        raise ValueError("no hundred")
    if number == 150:
        os._exit(3)
    return number + len(text)


def element(number):
    """The same of a column."""
    if number == 100:
        raise ValueError("no hundred")
    if number == 150:
        os._exit(3)
    return number


def fail(text):
    raise ValueError(text)


def wait():
    time.sleep(60)


def wait_deaf():
    """Does not answer the interrupt."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            time.sleep(60)
        except BaseException:
            pass


def die():
    os._exit(3)


def say(text):
    print(text, flush=True)


# ---- arrays: memoryviews here ----

def copy_array(a):
    b = pycrew.empty(a.shape, "d")
    b[:] = a
    return b


def pair_of_arrays(a):
    """One that is the argument, and one that is new."""
    return [a, copy_array(a)]


def empty_array(count):
    return pycrew.empty(count, "d")


def array_ends(a):
    return a[0] + a[-1]


def add_one(a):
    for i in range(len(a)):
        a[i] += 1


def keep_array(a):
    kept.append(a)


def kept_value():
    """-0.5: nothing was kept here; -1: it shows different elements, which were all the same."""
    values = {a[i] for a in kept for i in range(0, len(a), 1000)}
    return values.pop() if len(values) == 1 else -1 if values else -0.5


def let_go():
    kept.clear()


def slice(a, out):
    out[:] = a
