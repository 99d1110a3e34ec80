"""Called by tests/fail. Imports as little as it can: each run of a test starts an interpreter anew."""
import os
import time


def add(a, b):
    return a + b


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
