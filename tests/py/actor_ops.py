"""Classes and generators for the tests of actors, streams and of functions in each worker."""

import os
import signal
import time

import pycrew

mark = 0


def set_mark(value):
    global mark
    mark = value


def get_mark():
    return mark


def note_worker(path):
    """One byte for each run; its number is the worker's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d" % pycrew.worker)
    os.close(fd)


def die_in(path, number):
    note_worker(path)
    if pycrew.worker == number:
        os.kill(os.getpid(), signal.SIGKILL)


def raise_in(path, number):
    note_worker(path)
    if pycrew.worker == number:
        raise ValueError("not here")


def sleep(seconds):
    time.sleep(seconds)


def await_file(path):
    while not os.path.exists(path):
        time.sleep(0.001)


def whoami():
    return pycrew.worker


class Counter:
    def __init__(self, start=0, path=None):
        self.value = start
        self.path = path
        self.seen = []

    def add(self, amount=1):
        self.value += amount
        return self.value

    def get(self):
        return self.value

    def pid(self):
        return os.getpid()

    def worker(self):
        return pycrew.worker

    def note(self, thread, number):
        self.seen.append((thread, number))

    def in_order(self, threads, count):
        """Whether each thread's numbers came as they were submitted, and all of them."""
        for thread in range(threads):
            if [n for t, n in self.seen if t == thread] != list(range(count)):
                return False
        return True

    def sleep(self, seconds):
        time.sleep(seconds)

    def hold(self, started, release):
        open(started, "w").close()
        while not os.path.exists(release):
            time.sleep(0.001)

    def die(self, number=signal.SIGKILL):
        os.kill(os.getpid(), number)

    def fail(self):
        raise KeyError("no such thing")

    def fill(self, array):
        array[:] = self.value
        return array

    def total(self, *args, factor=1):
        return factor * sum(args)

    def close(self):
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write("c%d" % self.value)


class Stubborn:
    """Does not close."""

    def __init__(self, path):
        self.path = path

    def close(self):
        open(self.path, "w").close()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass


class Fragile:
    def __init__(self, path):
        with open(path, "a") as file:
            file.write("x")
        raise RuntimeError("cannot be made")


class DiesAtBirth:
    def __init__(self):
        os._exit(3)


class Slow:
    def __init__(self):
        time.sleep(60)


class Plain:
    """No close(), but an end."""

    def __init__(self, path):
        self.path = path

    def __del__(self):
        open(self.path, "w").close()
