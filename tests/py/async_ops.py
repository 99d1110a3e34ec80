"""Coroutines that tests/test-async.c calls."""

import asyncio
import collections
import contextvars
import functools
import itertools
import os
import signal
import subprocess
import sys
import time

import pycrew

state = {"cleaned": 0, "left": 0, "running": 0, "most": 0}
variable = contextvars.ContextVar("variable", default=0)


async def add(a, b):
    return a + b


async def sleep(seconds):
    await asyncio.sleep(seconds)
    return seconds


async def slow_add(a, b):
    await asyncio.sleep(0.005)
    return a + b


# ---- what can be awaited ----

class Adder:
    async def method(self, a, b):
        return a + b

    async def __call__(self, a, b):
        await asyncio.sleep(0)
        return a + b


adder = Adder()
method = adder.method
partial = functools.partial(add, 40)


def plainly(a, b):
    """No coroutine function, and its result is a coroutine."""
    return add(a, b)


class Awaitable:
    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.value


def awaitable(value):
    return Awaitable(value)


def plain_add(a, b):
    return a + b


def is_imported():
    return "asyncio" in sys.modules


# ---- ends ----

async def fail(text):
    await asyncio.sleep(0)
    raise ValueError(text)


async def fail_at_once(text):
    raise ValueError(text)


async def leave(status):
    await asyncio.sleep(0)
    sys.exit(status)


async def cancel_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(10)


async def unpicklable():
    await asyncio.sleep(0)
    return lambda: 0


async def large(size):
    await asyncio.sleep(0)
    return b"x" * size


# ---- deadlines ----

def note(path):
    with open(path, "a") as file:
        file.write(".")


async def await_forever(path=None):
    if path:
        note(path)
    await asyncio.Event().wait()


async def clean_up(seconds, started, path):
    """What is awaited in finally gets its time."""
    try:
        note(started)
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(seconds)
        note(path)


async def swallow(value):
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        return value


async def stubborn(started):
    note(started)
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass


async def block(seconds, started):
    note(started)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def block_behind(seconds):
    """What blocks comes right behind its own last step."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake():
        event.set()
        loop.call_soon(time.sleep, seconds)

    loop.call_later(0.02, wake)
    await event.wait()


async def block_in_c(started):
    """Holds the GIL for ever, and never looks for signals."""
    note(started)
    await asyncio.sleep(0)
    collections.deque(itertools.repeat(0), maxlen=0)


async def block_in_child(started):
    async def child():
        await asyncio.sleep(0.01)
        note(started)
        while True:
            pass
    await asyncio.gather(child())


async def time_left():
    before = pycrew.deadline()
    await asyncio.sleep(0.01)
    inner = await asyncio.gather(child_time_left())
    assert before is None or before > pycrew.deadline() >= inner[0] - 1
    return -1.0 if before is None else before


async def child_time_left():
    return pycrew.deadline()


def plain_time_left():
    left = pycrew.deadline()
    return -1.0 if left is None else left


# ---- together ----

async def count(seconds):
    """How many of these were in flight at once, as this one saw it."""
    state["running"] += 1
    state["most"] = max(state["most"], state["running"])
    await asyncio.sleep(seconds)
    state["running"] -= 1
    return state["most"]


async def keep_variable(value):
    assert variable.get() == 0
    variable.set(value)
    await asyncio.sleep(0.01)
    return variable.get()


def pid():
    return os.getpid()


async def pid_after(seconds):
    await asyncio.sleep(seconds)
    return os.getpid()


async def note_and_wait(path, seconds):
    note(path)
    await asyncio.sleep(seconds)
    return os.getpid()


async def die(sig, started):
    note(started)
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), sig)
    time.sleep(10)


async def die_once(path, others):
    """The first time, when the others are there."""
    if os.path.exists(path):
        return 2
    note(path)
    while not os.path.exists(others) or os.path.getsize(others) < 20:
        await asyncio.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


# ---- loops in loops, processes, threads ----

def run_own_loop(value):
    return asyncio.run(add(value, 1))


def has_running_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def run_program():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(6 * 7)", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return int(out)


async def in_thread(value):
    return await asyncio.to_thread(plain_add, value, 1)


async def fork():
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def fork_and_return():
    """A child that comes back out of its coroutine ends there."""
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0:
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def leave_task(path, seconds):
    """A task that nobody awaits."""
    async def left():
        try:
            await asyncio.sleep(seconds)
            note(path)
        except asyncio.CancelledError:
            note(path)
            note(path)
            raise
    state["task"] = asyncio.create_task(left())
    await asyncio.sleep(0)


async def echo_server(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def fetch(number):
    """A request over loopback, to a server in the same loop."""
    if "server" not in state:
        state["server"] = asyncio.create_task(
            asyncio.start_server(echo_server, "127.0.0.1", 0, backlog=500))
    server = await asyncio.shield(state["server"])
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"%d\n" % number)
    line = await reader.readline()
    writer.close()
    return int(line)


def loop_type():
    return type(state["loop"]).__module__


async def note_loop():
    return type(asyncio.get_running_loop()).__module__


def make_loop():
    loop = asyncio.SelectorEventLoop()
    loop.made_by_us = True
    return loop


def make_nothing():
    raise OSError("no loop today")


async def made_by_us():
    return getattr(asyncio.get_running_loop(), "made_by_us", False)


async def stop_loop():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return 5


# ---- arrays ----

async def add_array(array, value, seconds):
    array += value
    await asyncio.sleep(seconds)
    array += value
    return array


async def make_array(size, value, seconds):
    import numpy
    array = pycrew.empty(size)
    array[:] = value
    await asyncio.sleep(seconds)
    return array


def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def switches():
    """Context switches of all threads."""
    total = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as file:
            for line in file:
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
    return total
