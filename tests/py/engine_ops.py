"""Engines for tests/test-engine.c, and functions that they run."""
import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

bridge = None
ready = None
_lock = threading.Lock()
_thread = threading.local()
_runs = {}


# ---- engines ----

class Counting(ThreadPoolExecutor):
    """Knows how many tasks it was given, and has at most."""
    tasks = inside = most = 0

    def submit(self, *task):
        global counting
        counting = self
        with _lock:
            self.tasks += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        future = super().submit(*task)
        future.add_done_callback(self.left)
        return future

    def left(self, _):
        with _lock:
            self.inside -= 1


class Losing(ThreadPoolExecutor):
    """Loses single tasks: those that is_lost runs in, the first so many times; and those with a poison."""

    def __init__(self, count, times):
        super().__init__(count)
        self.times = times

    def pycrew_is_task_lost(self, error):
        return isinstance(error, LookupError)

    def submit(self, task, payload):
        if task.__name__ == "engine_ops:is_lost" and self.times > 0:
            self.times -= 1
            future = Future()
            future.set_exception(LookupError("its machine went away"))
            return future
        return super().submit(self.run, task, payload)

    def run(self, task, payload):
        _thread.poisoned = False
        ends = task(payload)
        if _thread.poisoned:
            raise LookupError("its machine was killed")
        return ends


def threads(count=4):
    return Counting(count)


def losing(times=1000):
    return Losing(2, times)


def processes(count=2, **options):
    global bridge
    bridge = os.getpid()
    return ProcessPoolExecutor(count, **options)


def _look_in(folder):
    sys.path.append(folder)


def elsewhere(folder):
    """Its processes have modules that the crew has not."""
    return ProcessPoolExecutor(1, initializer=_look_in, initargs=(folder,))


def away(sign, log):
    """Cannot be made while there is that file; each try is a line in log."""
    with open(log, "a") as file:
        file.write("tried\n")
    if os.path.exists(sign):
        raise ConnectionRefusedError("nobody is there")
    return processes()


def none():
    return 42


def needs_a_package():
    from pycrew.engines import dask
    sys.modules["distributed"] = None  # as if it was not installed
    return dask.cluster("tcp://127.0.0.1:1")


# ---- functions ----

def add(a, b, scale=1):
    return (a + b) * scale


def is_in_the_bridge():
    return os.getpid() == bridge


def pid():
    return os.getpid()


def fail(text):
    raise ValueError(text)


def fail_if_odd(number):
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


def add_or_fail(number, other):
    return fail_if_odd(number) + other


class Thing:
    def __init__(self, name):
        self.name = name


def thing(name):
    return Thing(name)


def generator():
    yield 1


async def add_later(a, b):
    await asyncio.sleep(0.01)
    return a + b


def most_in_flight(count):
    return counting.most


def tasks():
    return counting.tasks


def inside():
    return counting.inside


_meeting = threading.Barrier(4)


def meet(_):
    """Returns when four are here."""
    _meeting.wait(20)
    return 1


def nap(seconds):
    time.sleep(seconds)
    return 1


def note(path):
    with open(path, "a") as file:
        file.write("ran\n")


def nap_and_note(seconds, path):
    time.sleep(seconds)
    note(path)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 7
    die()


def die_once_at(number, at, path):
    if number == at:
        die_once(path)
    return number


def die_at(number, at):
    if number == at:
        die()
    return number


def is_lost():
    return 1


def poison_at(number, at):
    """Kills its machine there."""
    _runs[number] = _runs.get(number, 0) + 1
    if number == at:
        _thread.poisoned = True
    return number


def runs_of(number):
    return _runs.get(number, 0)


def make_array(number):
    import numpy
    return numpy.full(1000, float(number))


def double(array):
    return array * 2


def double_out(array, out):
    out[...] = array * 2


def double_in_place(array, nested):
    array *= 2
    nested[0][...] = 5


def set_ready():
    global ready
    ready = os.getpid()


def is_ready_here():
    return ready == os.getpid() and "queue_ops" in sys.modules


def pid_slowly(_):
    time.sleep(0.002)
    return os.getpid()


def echo_or_die(value):
    if value == -1:
        die()
    return value


def steady(value):
    """Some fail."""
    time.sleep(0.001)
    if value % 50 == 7:
        raise ValueError(f"no good: {value}")
    return value
