"""Actors for tests/test-together.c."""
import asyncio
import os
import signal
import time


class Server:
    def __init__(self):
        self.stopped = None
        self.started = False

    async def serve(self):
        self.stopped = asyncio.Event()
        self.started = True
        await self.stopped.wait()

    async def await_started(self):
        while not self.started:
            await asyncio.sleep(0.001)

    def stop(self):
        self.stopped.set()

    async def die(self):
        await self.await_started()
        os.kill(os.getpid(), signal.SIGKILL)


async def pid_after(seconds):
    await asyncio.sleep(seconds)
    return os.getpid()


def items(count, seconds):
    for i in range(count):
        time.sleep(seconds)
        yield i


class DiesWhenPickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        with open(self.path, "a") as file:
            file.write(".")
        os.kill(os.getpid(), signal.SIGKILL)


async def die_when_pickled(path):
    await asyncio.sleep(0.01)
    return DiesWhenPickled(path)


class SlowCloser:
    def __init__(self, path, seconds):
        self.path = path
        self.seconds = seconds

    async def close(self):
        await asyncio.sleep(self.seconds)
        open(self.path, "w").close()


class InOrder:
    """Coroutines that begin in the order of their submit, also before plain methods."""

    def __init__(self):
        self.seen = []

    async def note_async(self, number):
        self.seen.append(number)
        await asyncio.sleep(0.001)

    def note(self, number):
        self.seen.append(number)

    def is_in_order(self, count):
        return int(self.seen == list(range(count)))


class Closer:
    def __init__(self, path):
        self.path = path

    async def close(self):
        await asyncio.sleep(0)
        open(self.path, "w").close()
