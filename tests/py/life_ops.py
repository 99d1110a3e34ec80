"""What the tests of a worker's life call: recycling, reload, limits."""
import os
import resource
import time

import pycrew

from api_ops import note, wait_for

kept = []


def pid(*_):
    return os.getpid()


def pid_of_float(value):
    return float(os.getpid())


def grow(size):
    """Memory of its own."""
    kept.append(bytearray(b"x") * size)
    return os.getpid()


def grow_shared(size):
    """Memory that is the host's too."""
    array = pycrew.empty(size, "u1")
    array[:] = 1
    return array


def init():
    note(os.environ["LIFE_INITS"])


def init_fails_on_file():
    if os.path.exists(os.environ["LIFE_BROKEN"]):
        raise RuntimeError("init was told to fail")


def init_waits_for_file():
    note(os.environ["LIFE_INITS"])
    if os.path.exists(os.environ["LIFE_SLOW"]):
        wait_for(os.environ["LIFE_GO"])


def leave():
    note(os.environ["LIFE_EXITS"])


def pid_when(path):
    wait_for(path)
    return os.getpid()


def sleep_pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def niceness():
    return os.nice(0)


def limit(name):
    return list(resource.getrlimit(getattr(resource, name)))


def cpus():
    return sorted(os.sched_getaffinity(0))


def place_and_cpus(seconds):
    time.sleep(seconds)
    return [pycrew.worker, sorted(os.sched_getaffinity(0))]


def take(size):
    return len(bytearray(size))


def spin():
    while True:
        pass


def scribble():
    """Over the header of the shared segment."""
    import ctypes
    import scribble_ops
    ctypes.memset(scribble_ops.mapping()[0], 0x5a, 512)
    os._exit(3)
