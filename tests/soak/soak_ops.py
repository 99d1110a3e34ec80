"""The Python side of pycrew-soak: each call writes down that it began, with what, and that it went to
its end, in memory of the test's own, which outlives the worker. ledger.h has the layout."""

import array
import asyncio
import collections
import ctypes
import itertools
import mmap
import os
import re
import signal
import threading
import time
import zlib

import pycrew

try:
    import numpy  # noqa: F401: once, or each worker imports it for its first array
except ImportError:
    pass

with open(os.environ["PYCREW_SOAK_LEDGER"], "r+b") as _file:
    _map = mmap.mmap(_file.fileno(), 0)
_bytes = memoryview(_map)  # begun, left, changed
_words = _bytes.cast("I")  # the second of each two is what the arguments came to


def begin(index, check):
    """How often this call began before."""
    begun = _bytes[index * 8]
    if begun == 0:
        _words[index * 2 + 1] = check
    elif _words[index * 2 + 1] != check:
        _bytes[index * 8 + 2] = 1
    _bytes[index * 8] = begun + 1  # last: whoever began has said with what
    return begun


def leave(index):
    _bytes[index * 8 + 1] += 1


def sleep(microseconds):
    time.sleep(microseconds / 1e6)


def spin(_):
    while True:
        pass


def stick(_):
    """Holds the GIL for ever, and never looks for signals."""
    collections.deque(itertools.repeat(0), maxlen=0)


def match(_):
    re.match(r"(a+)+$", "a" * 64 + "b")


def swallow(_):
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def stop(_):
    os.kill(os.getpid(), signal.SIGSTOP)


DEATHS = (
    lambda: os._exit(7),
    os.abort,
    lambda: ctypes.string_at(0),
    lambda: os.kill(os.getpid(), signal.SIGKILL),
)

# By the numbers of enum op.
ADD, ECHO, FAIL, EXIT, ABORT, CRASH, KILL, DIE_ONCE, CHANGE = range(9)
SLEEP, SWALLOW = 9, 13
OTHERS = {SLEEP: sleep, 10: spin, 11: stick, 12: match, SWALLOW: swallow, 14: stop}


def change_and_die(data):
    ctypes.memset(id(data) + bytes.__basicsize__ - 1, 0x7F, len(data))
    DEATHS[3]()


# ---- arrays of bytes: numpy's, or memoryviews where it is not installed ----

INVERTED = bytes(255 - x for x in range(256))
KEPT_MAX = 6
_kept = collections.deque()  # what outlives its call, and what it shows


def copy(data, _):
    made = pycrew.empty(len(data), "uint8")
    memoryview(made)[:] = data
    return made


def keep(data, result):
    for view, shown in _kept:
        if zlib.adler32(view) != shown:
            raise RuntimeError("a view that was kept shows other data")
    _kept.append((data, zlib.adler32(data)))
    if len(_kept) > KEPT_MAX:
        _kept.popleft()
    return result


def keep_copy(data, _):
    made = copy(data, None)
    return keep(made, made)


def invert(data, result):
    view = memoryview(data)
    view[:] = view.tobytes().translate(INVERTED)
    return result


COPY = 15
ARRAYS = (copy, lambda data, _: data, lambda data, _: bytearray(data), keep, keep_copy, invert)


# ---- questions to the host: asks.c has the functions ----

PARTS = 3


def ask(name, question, data, part=0):
    function = getattr(pycrew.host, name)
    return function(*question, part, data=data) if data else function(*question, part)


def ask_sum(name, question, data, part=0):
    total, answered, echo = ask(name, question, data, part)
    if answered != part or echo != data:
        raise RuntimeError(f"the host's answer is another's: {part}, {answered}")
    return total


def ask_echo(question, data):
    return ask("echo", question, data)


def ask_catch(question, data):
    try:
        ask("catch_", question, data)
    except KeyError as error:
        if error.args != (str(question[2]),):
            raise RuntimeError("another's exception") from error
    return question[2] + question[0]


def ask_parts(question, data):
    """Each of some threads asks, all at a time; those that nobody awaits go on to their end."""
    totals = [None] * PARTS

    def run(part):
        totals[part] = ask_sum("part", question, data, part)

    threads = [threading.Thread(target=run, args=(part,)) for part in range(PARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(set(totals)) != 1:
        raise RuntimeError(f"the host's answers differ: {totals}")
    return totals[0]


def ask_die(question, data):
    threading.Thread(target=ask_sum, args=("last", question, data), daemon=True).start()
    time.sleep(question[3] % 1000 / 1e6)
    DEATHS[3]()


ASK = 21
ASKS = (
    lambda question, data: ask_sum("add", question, data),
    ask_echo,
    ask_catch,
    lambda question, data: ask_sum("slow", question, data),
    ask_parts,
    lambda question, data: ask("fail", question, data),
    ask_die,
)


def slices(indices, ops, operands, others, out=None):
    """A map's slice: each row is a call, and all end as one does."""
    rows = list(zip(*(column.tolist() for column in (indices, ops, operands, others))))
    for index, op, a, b in rows:
        begin(index, (index * 3 + op * 5 + a + b * 7 + 1) & 0xFFFFFFFF)
    for index, op, a, b in rows:
        if op == FAIL:
            raise ValueError(str(a))
        if EXIT <= op <= KILL:
            DEATHS[op - EXIT]()
        elif op > CHANGE:
            OTHERS[op](b)
    if rows[0][0] % 3 == 0:
        keep(indices, None)
    for row in rows:
        leave(row[0])
    result = memoryview(array.array("q", [index + a for index, _, a, _ in rows]))
    if out is None:
        return result
    out[:] = result
    return None


async def swallow_awaiting():
    while True:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass


async def call_awaiting(index, op, a, b, data=b""):
    """The same as a coroutine: others run beside it, before and after what it does."""
    begun = begin(index, check_of(index, op, a, b, data))
    if index % 4:
        await asyncio.sleep((index % 8) / 4000)
    if op == SLEEP:
        await asyncio.sleep(b / 1e6)
        result = a + index
    elif op == SWALLOW:
        await swallow_awaiting()
    else:
        result = do(index, op, a, b, data, begun)
    if index % 3:
        await asyncio.sleep(0)
    leave(index)
    return result


def check_of(index, op, a, b, data):
    return (index * 3 + op * 5 + a + b * 7 + zlib.adler32(data)) & 0xFFFFFFFF


def call(index, op, a, b, data=b""):
    begun = begin(index, check_of(index, op, a, b, data))
    result = do(index, op, a, b, data, begun)
    leave(index)
    return result


def do(index, op, a, b, data, begun):
    result = a + index
    if op == ECHO:
        result = data
    elif op == FAIL:
        raise ValueError(str(a))
    elif EXIT <= op <= KILL:
        DEATHS[op - EXIT]()
    elif op == DIE_ONCE and begun == 0:
        DEATHS[b % 4]()
    elif op == CHANGE and begun == 0:
        change_and_die(data)
    elif op >= ASK:
        result = ASKS[op - ASK]((index, op, a, b), data)
    elif op >= COPY:
        result = ARRAYS[op - COPY](data, result)
    elif op > CHANGE:
        OTHERS[op](b)
    return result


class Actor:
    """Its methods are functions of the storm's."""

    def call(self, *args):
        return call(*args)


def stream(rows):
    for row in rows:
        yield call(*row)
