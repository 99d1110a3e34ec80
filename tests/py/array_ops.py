"""Functions that tests give arrays to. numpy where it is there; some do without."""

import ctypes
import gc
import os
import signal
import sys
import time

try:
    import numpy as np
except ImportError:
    np = None

import pycrew

kept = []      # what outlives its call
cached = {}


def ends(a):
    return float(a[0]) + float(a[-1])


def describe(a):
    """What came, in words."""
    if isinstance(a, memoryview):
        return f"memoryview {a.format} {a.shape} {a.strides} ro={a.readonly} {a.tobytes().hex()}"
    text = a.dtype.str if a.dtype.names is None else str(a.dtype.descr)
    return f"{text} {a.shape} {a.strides} w={a.flags.writeable} {a.tolist()}"


def has_pandas():
    try:
        import pandas
    except ImportError:
        return False
    return bool(pandas)


def shares_with_pandas(a):
    """Whether a pandas column is the array's own memory: writes to the array are seen in it."""
    import pandas
    frame = pandas.DataFrame({"column": a}, copy=False)
    return bool(np.shares_memory(frame["column"].to_numpy(), a)) and float(frame["column"].sum()) == float(a.sum())


def shares_by_dlpack(a):
    """The same by DLPack, which is how torch and others take arrays over."""
    return bool(np.shares_memory(np.from_dlpack(a), a))


def address(a):
    return a.__array_interface__["data"][0] if np else ctypes.addressof(ctypes.c_char.from_buffer(a))


def where(name, a):
    """Which mapping the data is in, and at which offset of the file."""
    at = address(a)
    for line in open("/proc/self/maps"):
        fields = line.split()
        low, high = (int(x, 16) for x in fields[0].split("-"))
        if low <= at < high:
            return at - low + int(fields[2], 16)
    return -1


def total(a):
    return float(a.sum())


def add_one(a):
    a += 1


def add_to_both(a, b):
    a += 1
    b += 1


def fill(a, value):
    a[...] = value


def try_to_write(a):
    try:
        a[0] = 9
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "written"


def try_to_unlock(a):
    try:
        a.flags.writeable = True
    except ValueError as error:
        return str(error)
    return "unlocked"


def both(a, b):
    return float(a[0]) * 10 + float(b[0])


def same(a):
    return a


def part(a, start, stop, step):
    return a[start:stop:step]


def made(expression):
    return eval(expression)


def empty_filled(n, value):
    a = pycrew.empty(n)
    a[:] = value
    return a


def empty_only(n):
    return pycrew.empty(n)


def keep(a):
    kept.append(a)


def keep_view(a):
    kept.append(a[1:3])


def kept_sum():
    return float(sum(float(a.sum()) for a in kept))


def kept_first():
    return float(kept[-1][0])


def let_go():
    kept.clear()
    gc.collect()


def generator(a):
    def numbers():
        for x in a:
            yield float(x)
    g = numbers()
    first = next(g)
    cached["generator"] = g
    return first


def generator_next():
    return next(cached["generator"])


def keep_and_return(n, value):
    a = empty_filled(n, value)
    kept.append(a)
    return a


def return_kept():
    return kept[-1]


def write_kept(value):
    kept[-1][:] = value


def die_with(a):
    os.kill(os.getpid(), signal.SIGKILL)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(a):
    a[:] = 1
    os.kill(os.getpid(), signal.SIGKILL)


def write_half_and_die(a, path):
    a[0] += 1
    with open(path, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def raise_with(a):
    a[0] = 5
    raise ValueError("no")


def fork_and_look(a):
    """A child sees its copy, writes to it, and its parent does not see that."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seen = float(a[0]), float(a[-1])
            if a.flags.writeable:
                a[0] = 99
            os.write(into, f"{seen[0]} {seen[1]} {float(a[0])}".encode())
        finally:
            os._exit(0)
    os.close(into)
    text = os.read(out, 100).decode()
    os.close(out)
    os.waitpid(child, 0)
    return f"{text} {float(a[0])}"


def empty_in_child():
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                pycrew.empty(3)
                text = "made"
            except RuntimeError as error:
                text = str(error)
            os.write(into, text.encode())
        finally:
            os._exit(0)
    os.close(into)
    text = os.read(out, 1000).decode()
    os.close(out)
    os.waitpid(child, 0)
    return text


def has_numpy():
    return "numpy" in sys.modules and sys.modules["numpy"] is not None


def nested(a):
    return {"list": [a, 2 * a], "n": 5}


def items(pair):
    return float(pair[0][0]) + float(pair[1][0])


def by_name(a=None, b=None):
    return float(a[0]) - float(b[0])


def nap(a, seconds):
    time.sleep(seconds)
    return float(a[0])


def copy_then_die(n):
    """Dies while its result is being copied, or about to be."""
    import threading
    a = np.ones(n)
    threading.Timer(0.005, die).start()
    time.sleep(0.0045)
    return a


def pid():
    return os.getpid()


def describe_made(expression):
    return describe(eval(expression))


def empty_and_where(n):
    a = empty_filled(n, 7.5)
    return a, where("", a)


def view_of_empty(start, stop):
    a = pycrew.empty(1000)
    a[:] = np.arange(1000)
    return a[start:stop]


def reversed_empty(n):
    a = pycrew.empty((n, 2), "i4")
    a[...] = np.arange(2 * n).reshape(n, 2)
    return a[::-1].T


def sum_of(a):
    return sum(a.tolist())


def empty_without_numpy(n):
    a = pycrew.empty(n, "d")
    for i in range(n):
        a[i] = i / 2
    return a


def empty_fails(expression):
    try:
        eval(expression)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "made"


def add_in_place(a, path):
    """Dies the first time, having written."""
    a[0] += 1
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(a[0])


def churn(a, n):
    b = pycrew.empty(n)
    b[:] = a[0]
    if len(kept) > 3:
        kept.pop(0)
    kept.append(a)
    for k in kept:
        if k[0] != k[-1]:
            raise ValueError(f"a kept view shows {k[0]} and {k[-1]}")
    return b


def copied(a):
    """A new array with the same elements; every third argument is kept for a while."""
    b = pycrew.empty(a.shape[0])
    b[:] = a
    cached["n"] = cached.get("n", 0) + 1
    if cached["n"] % 3 == 0:
        kept.append(a)
        del kept[:-2]
    return b


def overwrite_stubbornly(a, seconds):
    """Goes on writing whoever interrupts it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                a[...] = -1
        except pycrew.DeadlineExceeded:
            pass


def write_both_stubbornly(shared, a, seconds):
    """The same, and it returns as if nothing had been."""
    a[...] = shared[...] = -1
    overwrite_stubbornly(a, seconds)


def unpicklable_with_arrays(n):
    a = empty_filled(n, 1)
    kept[:] = [a]
    return [a, np.ones(n), lambda: None]


# ---- a workspace, forks, and what a dead worker left ----

workspace = None


def start_workspace():
    global workspace
    workspace = pycrew.empty(1000)
    workspace[:] = 1
    return workspace[:600]


def return_workspace(a):
    return workspace


def fork_and_overwrite(n):
    """Whether a child sees what was there when it was forked, while its parent goes on."""
    a = pycrew.empty(n)
    a[:] = 1
    pid = os.fork()
    if pid == 0:
        os._exit(0 if (a == 1).all() else 9)
    a[:] = 2
    return os.waitpid(pid, 0)[1]


def keep_second(a, b):
    kept.append(b)
    return os.getpid()


def pid_keeping(a):
    kept.append(a)
    return os.getpid()
