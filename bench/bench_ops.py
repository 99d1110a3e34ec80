"""The Python side of pycrew-bench, but for math_ops.add, which is the founding example's."""

import os
import sys
import time


def python():
    return sys.version.split()[0], sys.executable


def hold(seconds):
    """When this call began, and in which process. It stays there for a while, so that calls beside
    it go to other workers."""
    begin = time.monotonic_ns()
    time.sleep(seconds)
    return begin, os.getpid()


def nothing():
    pass


def stubborn():
    """Days in one C function, which holds the GIL and does not look for signals."""
    sum(range(10**14))


async def add_async(a, b):
    return a + b


async def sleep_async(seconds):
    import asyncio
    await asyncio.sleep(seconds)


def ends(a):
    return float(a[0]) + float(a[-1])


def empty(n):
    import pycrew
    a = pycrew.empty(n)
    a[-1] = 1
    return a


def host_calls(count, pause):
    """Nanoseconds that each call of the host took: their median, after pauses; or their mean."""
    import pycrew
    add = pycrew.host.add
    if pause == 0:
        begin = time.perf_counter_ns()
        for i in range(count):
            if add(i, 1) != i + 1:
                raise ValueError(i)
        return (time.perf_counter_ns() - begin) / count
    took = []
    for i in range(count):
        time.sleep(pause)
        begin = time.perf_counter_ns()
        add(i, 1)
        took.append(time.perf_counter_ns() - begin)
    return float(sorted(took)[count // 2])


def items(n):
    return iter(range(n))
