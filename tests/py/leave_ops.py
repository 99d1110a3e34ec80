"""What holds a worker that is to leave: coroutines and actors that are never idle."""
import asyncio
import os


async def nap(seconds):
    await asyncio.sleep(seconds)
    return os.getpid()


class Napper:
    """Its calls overlap."""

    def __init__(self):
        self.event = asyncio.Event()

    async def nap(self, seconds):
        await asyncio.sleep(seconds)
        return os.getpid()

    async def wait(self):
        await self.event.wait()

    async def set(self):
        self.event.set()

    def pid(self):
        return os.getpid()
