"""What the tests through pycrew.h call."""
import collections
import ctypes
import itertools
import os
import re
import signal
import sys
import threading
import time

import pycrew


def add(a, b):
    return a + b


def nothing(*args, **kwargs):
    return None


def python_minor():
    return sys.version_info[1]


def echo(value=None):
    return value


def arguments(*args, **kwargs):
    return [list(args), kwargs]


def shown(*args):
    return repr(args)


def kind(value):
    return type(value).__qualname__


def text_of(value):
    return repr(value)


def length(value):
    return len(value)


def evaluate(text):
    return eval(text)


def zeros(size):
    return bytes(size)


def pattern(size):
    return bytes(i * 7 & 255 for i in range(251)) * (size // 251) + bytes(size % 251)


def numbers(first, count):
    return list(range(first, first + count))


def big(bits):
    return 2**bits


def is_big(value, bits, sign):
    return value == sign * 2**bits


def self_containing():
    values = []
    values.append(values)
    return values


def nested(depth):
    value = None
    for _ in range(depth):
        value = [value]
    return value


def nested_depth(value):
    depth = 0
    while value:
        value = value[0]
        depth += 1
    return depth


def unpicklable():
    return lambda: None


class Thing:
    def __init__(self, value=0):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Thing) and self.value == other.value

    class Inner:
        @staticmethod
        def three():
            return 3


class OddError(Exception):
    class Deep(Exception):
        pass


def thing(value):
    return Thing(value)


def thing_value(value):
    return value.value


NOT_CALLABLE = 5


def fail(kind="value", text="no good"):
    if kind == "value":
        raise ValueError(text)
    if kind == "deep":
        raise OddError.Deep(text)
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "chain":
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError(text) from error
    if kind == "bad str":

        class Mute(Exception):
            def __str__(self):
                raise TypeError("no words")

        raise Mute
    if kind == "surrogate":
        raise ValueError("half \ud800 of it")
    if kind == "long":
        raise ValueError("x" * 1000000)
    if kind == "memory":
        raise MemoryError
    if kind == "recursion":
        fail(kind, text)


def fail_if_odd(value):
    if value % 2:
        raise ValueError(f"odd: {value}")
    return value


# ---- where it ran, and that it did ----


def pid():
    return os.getpid()


def worker():
    return pycrew.worker


def note(path, text="x"):
    """Appends to a file: the side effect that says that the call ran."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, text.encode())
    os.close(fd)
    return len(text)


def note_number(path, number):
    note(path, f"{number}\n")
    return number, os.getpid()


def count_notes(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# ---- deaths ----


def die_by(how):
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    return how


def die_noting(path, how="kill"):
    note(path)
    return die_by(how)


def die_until(path, times, how="kill"):
    """Dies the first `times` times that it is called with this path."""
    note(path)
    ran = count_notes(path)
    if ran <= times:
        die_by(how)
    return ran


def change_and_die(values, data, path, times):
    """Dies the first `times` times, after it has changed what it was given."""
    seen = [list(values), bytes(bytearray(data))]
    values[0] = "changed"
    values.append(data)
    ctypes.memset(id(data) + bytes.__basicsize__ - 1, 0x7F, len(data))
    die_until(path, times)
    return seen


def echo_or_die(value, fatal):
    if value == fatal:
        die_by("kill")
    return value


def echo_or_die_until(value, fatal, path, times):
    return die_until(path, times) if value == fatal else value


class DiesUnpickled:
    def __reduce__(self):
        return die_by, ("exit",)


# ---- time ----


def sleep(seconds, path=None):
    if path is not None:
        note(path)
    time.sleep(seconds)
    return seconds


def spin(seconds, path=None):
    if path is not None:
        note(path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def catastrophe(path=None):
    """Holds the GIL for ever, and never looks for signals."""
    if path is not None:
        note(path)
    collections.deque(itertools.repeat(0), maxlen=0)


def swallow(path=None):
    if path is not None:
        note(path)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def swallow_once(seconds, path=None):
    if path is not None:
        note(path)
    try:
        time.sleep(seconds)
    except BaseException as error:
        return type(error).__qualname__
    return "nothing came"


def die_when_interrupted(path):
    note(path)
    try:
        time.sleep(100)
    except BaseException:
        os._exit(7)


class SlowToTell(Exception):
    asked = False

    def __str__(self):
        if not self.asked:
            self.asked = True
            time.sleep(100)
        return "told at last"


def fail_slowly():
    raise SlowToTell


class Stubborn:
    def __del__(self):
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                pass


def stubborn_del(path=None):
    if path is not None:
        note(path)
    Stubborn()


def canary(seconds):
    """Fails if an interrupt that was another call's hits it."""
    spin(seconds)
    time.sleep(seconds)
    return 1


def wait_for(path, seconds=20):
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.0005)
    return 1


def wait_for_noting(path, note_path):
    note(note_path)
    return wait_for(path)


def time_left():
    left = pycrew.deadline()
    return -1.0 if left is None else left


def sleep_if(value, special, seconds, path=None):
    if value == special:
        sleep(seconds, path)
    return value


def swallow_if(value, special, path=None):
    if value == special:
        swallow(path)
    return value


def catastrophe_if(value, special, path=None):
    if value == special:
        catastrophe(path)
    return value


# ---- output ----


def say(text, stream="stdout"):
    print(text, file=getattr(sys, stream))
    return len(text)


def say_raw(text):
    sys.stdout.write(text)
    sys.stdout.flush()
    return len(text)


def environment(name):
    return os.environ.get(name)


def first_path():
    return sys.path[0]


def modules(name):
    return name in sys.modules


state = {"init": 0}


def init():
    state["init"] += 1
    state["worker"] = pycrew.worker


def init_count():
    return state["init"]


def init_fails():
    raise RuntimeError("init has no mind to")


def init_dies():
    os._exit(5)


def init_fails_if():
    if os.path.exists(os.environ["FAIL_INIT"]):
        raise RuntimeError("init has no mind to")


def init_slow_if():
    while os.path.exists(os.environ["SLOW_INIT"]):
        time.sleep(0.001)


def scribble_counters(value, offset):
    """Writes over the line of worker 0's record that it counts in."""
    with open("/proc/self/maps") as maps:
        line = next(line for line in maps if "/dev/shm/pycrew" in line or "memfd:pycrew" in line)
    start = int(line.split("-")[0], 16)
    words = (ctypes.c_int64 * 3).from_address(start + offset)
    for i in range(3):
        words[i] = value * (2**63 - 1)


def at_exit():
    path = os.environ.get("TEST_EXIT_NOTE")
    if path:
        note(path)


def leave_thread():
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return threading.active_count()


def executable():
    return sys.executable
