"""What the tests of the command call."""
import os
import signal
import sys
import time


def add(a, b):
    return a + b


def echo(value=None):
    return value


def slow_echo(value):
    time.sleep(0.005)
    return value


def arguments(*args, **kwargs):
    return [list(args), kwargs]


def kind(value):
    return type(value).__name__


def length(value):
    return len(value)


def text(size):
    return "x" * size


def raw_bytes():
    return bytes(range(256))


def nan():
    return [float("nan"), float("inf"), -float("inf"), "NaN", 1]


def nan_if_odd(value):
    return float("nan") if value % 2 else value


def half_pair():
    return "\ud800"


def unsayable():
    return object()


def fail(value=None):
    raise ValueError(f"no good: {value}")


def fail_on_odd(value):
    if value % 2:
        raise ValueError(f"odd: {value}")
    return value


def fail_decoding(value):
    import json

    return json.loads("{")


def die(value=None):
    os.kill(os.getpid(), signal.SIGSEGV)


def die_on_seven(value):
    if value == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def leave():
    os._exit(9)


def slow(seconds):
    time.sleep(seconds)
    return seconds


def slow_on_three(value):
    if value == 3:
        time.sleep(60)
    return value


def first_is_slow(value):
    if value == 0:
        time.sleep(0.5)
    return value


def started(path):
    """Says in a file that it runs, and goes on for a minute."""
    with open(path, "a") as out:
        out.write("started\n")
    time.sleep(60)


def started_then(path):
    """The same, but ends when the file `go` is there."""
    with open(path, "a") as out:
        out.write("started\n")
    while not os.path.exists("go"):
        time.sleep(0.01)
    return path


def loud(value=None):
    print("to stdout", value)
    print("to stderr", value, file=sys.stderr)
    return value


def loud_later(value):
    time.sleep(0.3)
    return loud(value)


def environment(name):
    return os.environ.get(name)


def first_path():
    return sys.path


def is_imported(name):
    return name in sys.modules


prepared = []


def prepare():
    prepared.append(1)


def prepared_times():
    return len(prepared)


def row(value):
    return {"n": value, "text": f'a,"{value}"', "none": None}


def other_keys(value):
    return {"n": value} if value < 2 else {"m": value}


def pair(value):
    return [value, str(value)]


def file_size(path):
    return os.path.getsize(path)


def fail_then_sleep(value):
    if value < 2:
        raise ValueError("first ones")
    time.sleep(60)


def buffers():
    return {"view": memoryview(b"\1\2"), "bytes": bytearray(b"\1\2")}


def unprintable():
    return object()


def count_to(n):
    yield from range(n)


def echo_twice(value):
    yield value
    yield value


def one_then_wait(path):
    yield "first"
    while not os.path.exists(path):
        time.sleep(0.001)
    yield "second"


def fail_after(n):
    yield from range(n)
    raise ValueError("enough")


def die_after(n):
    yield from range(n)
    os.kill(os.getpid(), signal.SIGKILL)


def steady(value):
    """What it returns, and which records fail, depends on the record alone; now and then it takes a little."""
    number = int(value["n"]) if isinstance(value, dict) else int(value)
    if number % 50 == 0:
        time.sleep(0.004)
    if number % 41 == 40:
        raise ValueError(f"no: {number}")
    return {"n": number, "square": number * number}


def steady_list(values):
    return [steady(value) for value in values if value % 41 != 40]


def group_fails(values):
    if 7 in values:
        raise ValueError("seven")
    return values


def group_of_one_less(values):
    return values[1:]


def wait_for_go(value):
    while not os.path.exists("go"):
        time.sleep(0.002)
    return value


def init_once():
    """Raises in every worker but the first."""
    with open("initialized", "x"):
        pass


def slow_host(number):
    """And the address of the host that it ran on, as that host's network namespace has it."""
    time.sleep(0.01)
    with open("/proc/net/fib_trie") as file:
        return [number, next(word for word in file.read().split() if word in ("10.77.0.3", "10.77.0.4"))]
