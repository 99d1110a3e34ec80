"""Coroutines that tests/test-async.c calls."""

import asyncio


async def add(a, b):
    return a + b


async def sleep(seconds):
    await asyncio.sleep(seconds)
    return seconds
