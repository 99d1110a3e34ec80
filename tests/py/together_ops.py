"""Actors for tests/test-together.c."""
import asyncio
import os
import signal


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


class Closer:
    def __init__(self, path):
        self.path = path

    async def close(self):
        await asyncio.sleep(0)
        open(self.path, "w").close()
