"""Classes and generators for the tests of actors, streams and of functions in each worker."""

import os
import signal
import time

import pycrew

from api_ops import note

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


latest = None


def latest_value():
    return latest.value


class Counter:
    def __init__(self, start=0, path=None):
        global latest
        latest = self
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


# ---- streams -----------------------------------------------------------------------------------

made = 0  # items, in this worker


def made_so_far():
    return made


def count_to(n, start=0):
    global made
    for i in range(start, n):
        made += 1
        yield i


async def count_async(n):
    import asyncio
    for i in range(n):
        await asyncio.sleep(0)
        yield i


def listed(n):
    return list(range(n))


def iterated(n):
    return iter(range(n))


def nothing():
    return
    yield


def raise_after(n):
    for i in range(n):
        yield i
    raise ValueError("after %d" % n)


def raise_at_once():
    raise LookupError("no stream")


async def raise_async_after(n):
    for i in range(n):
        yield i
    raise ValueError("after %d" % n)


def die_after(n, number=signal.SIGKILL):
    for i in range(n):
        yield i
    os.kill(os.getpid(), number)


def texts(n, size):
    for i in range(n):
        yield chr(ord("a") + i % 26) * size


def import_numpy():
    import numpy
    assert numpy


def arrays(n, size):
    for i in range(n):
        array = pycrew.empty(size)
        array[:] = i
        yield array
        del array


def slow(n, seconds):
    for i in range(n):
        time.sleep(seconds)
        yield i


def forever(path=None):
    """Says in a file how it ended."""
    try:
        i = 0
        while True:
            yield i
            i += 1
    except GeneratorExit:
        if path is not None:
            with open(path, "w") as file:
                file.write("closed after %d" % i)
        raise


async def forever_async(path):
    try:
        while True:
            yield 1
    finally:
        with open(path, "w") as file:
            file.write("closed")


async def count_slowly(n, seconds):
    import asyncio
    for i in range(n):
        await asyncio.sleep(seconds)
        yield i


turns = {}  # of those that wait for each other


async def in_turn(n, own, other):
    """Its item i is made when the other one's item i - 1 is."""
    import asyncio
    mine = turns.setdefault(own, [asyncio.Event() for _ in range(n)])
    for i in range(n):
        if i > 0:
            while other not in turns:
                await asyncio.sleep(0.001)
            await turns[other][i - 1].wait()
        mine[i].set()
        yield i


async def fail_later(seconds):
    import asyncio
    yield 0
    await asyncio.sleep(seconds)
    raise ValueError("that was all")


async def hang_after(n, path):
    """Says in a file how it ended."""
    import asyncio
    try:
        for i in range(n):
            yield i
        await asyncio.Event().wait()
    except BaseException as error:
        with open(path, "w") as file:
            file.write(type(error).__name__)
        raise


async def hold_async(n, started, release, closed):
    import asyncio
    try:
        for i in range(n):
            yield i
        open(started, "w").close()
        while not os.path.exists(release):
            await asyncio.sleep(0.001)
        yield n
        open(closed + ".too_far", "w").close()
        yield n + 1
    finally:
        await asyncio.sleep(0.01)
        with open(closed, "w") as file:
            file.write("closed")


class AsyncIterator:
    """Written by hand: __anext__ is no coroutine function, and raises by itself."""

    def __init__(self, n, path):
        self.left = n
        self.path = path

    def __aiter__(self):
        return self

    def __anext__(self):
        if self.left == 0:
            raise StopAsyncIteration
        self.left -= 1
        return self.give(self.left)

    async def give(self, value):
        import asyncio
        await asyncio.sleep(0)
        return value

    async def aclose(self):
        import asyncio
        await asyncio.sleep(0)
        open(self.path, "w").close()


class AsyncIteratorFails(AsyncIterator):
    """Its last item."""

    async def give(self, value):
        import asyncio
        if value == 0:
            raise ValueError("the last one")
        if value == 1:
            await asyncio.sleep(60)
        return value

    async def aclose(self):
        note(self.path)


class AsyncIteratorCleansUp(AsyncIterator):
    """For long, where its item is cancelled; and then it takes long to close."""

    def __init__(self, path, started, item_s, close_s):
        super().__init__(1, path)
        self.started = started
        self.item_s = item_s
        self.close_s = close_s

    async def give(self, value):
        import asyncio
        try:
            open(self.started, "w").close()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(self.item_s)

    async def aclose(self):
        import asyncio
        await asyncio.sleep(self.close_s)
        note(self.path)


class IteratorFails:
    """Behind some items; and would go on then."""

    def __init__(self, n, path, seconds=0):
        self.left = n
        self.path = path
        self.seconds = seconds

    def __iter__(self):
        return self

    def __next__(self):
        self.left -= 1
        if self.left == -1:
            time.sleep(self.seconds)
            raise ValueError("no item")
        return self.left

    def close(self):
        note(self.path)


class NoAwaitable:
    def __aiter__(self):
        return self

    def __anext__(self):
        return 5


async def die_in_step(n):
    import asyncio
    for i in range(n):
        yield i
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def hold_second(started, release, closed):
    try:
        yield 1
        open(started, "w").close()
        while not os.path.exists(release):
            time.sleep(0.001)
        yield 2
        yield 3
    finally:
        with open(closed, "w") as file:
            file.write("closed")


def begin_slowly(started, release, closed):
    """Not a generator function: returns one."""
    open(started, "w").close()
    while not os.path.exists(release):
        time.sleep(0.001)
    return forever_closing(closed)


class forever_closing:
    def __init__(self, closed):
        self.closed = closed

    def __iter__(self):
        return self

    def __next__(self):
        return 1

    def close(self):
        open(self.closed, "w").close()


def stubborn(path):
    try:
        while True:
            yield 1
    finally:
        open(path, "w").close()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass


def unpicklable():
    yield 1
    yield lambda: None
    yield 3


def mixed():
    yield None
    yield 12
    yield 2.5
    yield "text"
    yield b"bytes"
    yield [1, 2]
    yield {"a": 1}


def pid_then_count(n):
    yield os.getpid()
    for i in range(n):
        yield i


def damage():
    """Writes over the crew's shared memory, and dies."""
    import ctypes
    import re
    with open("/proc/self/maps") as maps:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-s .*(/dev/shm/pycrew\.|memfd:pycrew )", line)
            if found:
                ctypes.memset(int(found[1], 16), 0xA5, 1 << 18)
    os.kill(os.getpid(), signal.SIGKILL)
