"""The bridge: a worker that runs nothing itself, but gives its calls to a concurrent.futures.Executor. Called by
pycrew-worker (worker/engine.c), in its event loop."""

import asyncio
import collections
import concurrent.futures
import contextvars
import functools
import importlib
import json
import os
import pickle
import sys

from pycrew import _task
from pycrew._task import LOST

EXIT_LOST = 96  # PC_EXIT_ENGINE_LOST in lib/shm/control.h
TASK_S = 0.06  # of a batch's tasks, as TASK_NS in lib/batch.c

_retries = lambda: 0  # worker/engine.c puts its own here

_executor = None
_name = None
_setup = None
_fault_fd = -1
_ending = False
_width = 1
_parts = 1  # of a batch that a task has at least, where there are so many


class RemoteError(Exception):
    """An exception that was raised elsewhere: what it is called, says, and shows. worker/fault.c tells it so."""

    def __init__(self, kind, type_name, message, traceback):
        super().__init__(message)
        self.kind, self.type_name, self.message, self.traceback = kind, type_name, message, traceback


def start(name, options, path, preload, init, fault_fd):
    """Makes the executor. What it raises is why the crew cannot start."""
    global _executor, _name, _setup, _fault_fd
    for variable in "PYCREW_ENGINE", "PYCREW_ENGINE_OPTIONS":
        os.environ.pop(variable, None)  # a crew in a task of ours is a local one
    keywords = json.loads(options) if options else {}
    if not isinstance(keywords, dict):
        raise TypeError(f"engine_options is no JSON object, but {options}")
    nested = _take_nested(keywords)
    _name, _fault_fd = name, fault_fd
    _setup = _task.Setup([os.path.abspath(folder) for folder in path], preload, init, nested)
    _executor = _find(name)(**keywords)
    if not callable(getattr(_executor, "submit", None)):
        raise TypeError(f"the engine {name} made no concurrent.futures.Executor, but an object of type "
                        f"{type(_executor).__name__}")
    return width()


def _take_nested(keywords):
    """The option that is ours and not the factory's: how many workers a crew of each machine has, and its text."""
    global _parts
    count = keywords.pop("nested", None)
    if count is None:
        return None
    if type(count) is not int or not 0 < count <= 1024:
        raise TypeError(f"engine_options: nested is to be a number of workers, from 1 to 1024, and is {count!r}")
    _parts = 2 * count  # so that a worker that has ended does not wait for the slowest one
    with open(os.path.join(os.path.dirname(__file__), "_nested.py"), encoding="utf-8") as file:
        return count, file.read()


def _find(name):
    module, _, names = name.partition(":")
    found = importlib.import_module(module)
    for part in names.split("."):
        found = getattr(found, part)
    return found


def width():
    """How many tasks run at a time, as far as the executor says."""
    global _width
    own = getattr(_executor, "pycrew_width", None)
    count = own() if own is not None else getattr(_executor, "_max_workers", None)
    _width = count if isinstance(count, int) and count > 0 else os.cpu_count() or 1
    return _width * _parts


def end():
    """At the worker's end."""
    global _ending
    _ending = True
    close = getattr(_executor, "pycrew_close", None)
    if close is not None:
        close()
    elif _executor is not None:
        _executor.shutdown(wait=False, cancel_futures=True)


# ---- losing it ----

def _lose(why):
    """Nothing that was given to the executor will end: this process does, and so its calls. The host starts the
    next one, which calls the factory again. Never inside of a call's own step, which would be blamed for it."""
    if _ending:
        return  # it was let go
    text = f"the engine {_name} was lost: {why}\n"
    sys.stdout.flush()
    sys.stderr.flush()
    if _fault_fd >= 0:
        os.write(_fault_fd, text.encode("utf-8", "backslashreplace"))
    os._exit(EXIT_LOST)


def _describe(error):
    return f"{type(error).__qualname__}: {error}" if str(error) else type(error).__qualname__


def _is_lost(error):
    own = getattr(_executor, "pycrew_is_lost", None)
    return isinstance(error, concurrent.futures.BrokenExecutor) or (own is not None and own(error))


def _is_task_lost(error):
    own = getattr(_executor, "pycrew_is_task_lost", None)
    return own is not None and own(error)


def _arrived(waiter, future):
    """In the event loop: a future has ended."""
    if waiter.done():  # it was cancelled by us
        return
    if future.cancelled():
        _lose("it cancelled a task that nobody had cancelled")
    error = future.exception()
    try:
        lost = error is not None and _is_lost(error)
    except Exception:  # of the engine's own; the call must end all the same
        lost = False
    if lost:
        _lose(_describe(error))
    waiter.set_result(None)


def _tell(loop, waiter, future):
    """In a thread of the executor's."""
    try:
        loop.call_soon_threadsafe(_arrived, waiter, future)
    except RuntimeError:
        pass  # the loop is closed: the worker ends


# ---- calls ----

async def _send(task, payload):
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    future = None
    try:
        future = _executor.submit(task, payload)
        future.add_done_callback(functools.partial(_tell, loop, waiter))
    except RuntimeError as error:  # BrokenExecutor, or it was shut down
        loop.call_soon(_lose, _describe(error))
    try:
        await waiter
    except asyncio.CancelledError:
        if future is not None:
            future.cancel()
        raise
    error = future.exception()
    if error is not None and _is_task_lost(error):
        raise _lost(_describe(error))
    return [pickle.loads(end) if type(end) is bytes else end for end in future.result()]


def _as_it_is(data):
    return data


def _lost(why):
    return RemoteError(LOST, None, f"the engine {_name} lost the task: {why}", None)


def _decode(end, calls, written):
    """Of what Task.run returned: values; exceptions, by place; nanoseconds."""
    took, ends, failures, contents = end
    if ends is None:
        raise _lost(failures[2]) if failures[0] == LOST else RemoteError(*failures)
    if contents is not None:
        for array, content in zip(written, _task.loads(contents)):
            array[...] = content
    failures = {place: RemoteError(*failure) for place, failure in failures.items()}
    if type(ends) is not list:
        return pickle.loads(ends), failures, took
    values = [None] * calls
    for place in range(calls):
        if place not in failures:
            try:
                values[place] = _task.loads(ends[place])
            except Exception as error:
                failures[place] = error
    return values, failures, took


class _Part:
    """A chunk of a batch, that may share a task with others, unless it was lost with one."""

    def __init__(self, payload, calls, shares=True):
        self.payload, self.calls, self.shares = payload, calls, shares
        self.waiter = asyncio.get_running_loop().create_future()
        self.runner, self.others = None, ()


class Function:
    """What a call runs instead of the function: it is not looked up here, but where the task runs."""

    def __init__(self, name, source):
        self.task = _task.Task(name, source, _setup)
        self.waiting, self.tasks = collections.deque(), 0
        self.call_s = None  # how long one takes

    def __call__(self, *arguments, **keywords):
        return self.call(self.many([[arguments, keywords] if keywords else arguments], True))

    async def call(self, many):
        values, failures, _ = await many
        if failures:
            raise failures[0]
        return values[0]

    def many(self, calls, alone):
        """calls: a tuple of arguments each, or [arguments, keywords]; None: is not to be run. Returns an awaitable of
        values; exceptions, by place; and how many nanoseconds it took. alone: in a task of its own, at once.
        Arguments are pickled now: arrays are the host's again when this returns."""
        written = list(_task.writable(calls[0])) if len(calls) == 1 and calls[0] is not None else ()
        return self.end_many(_task.dumps(calls, _as_it_is), len(calls), written, alone or len(written) > 0,
                             _retries())

    async def end_many(self, payload, calls, written, alone, retries):
        """What is lost is given again, retries times."""
        for left in range(retries, -1, -1):
            try:
                if alone:
                    end = (await _send(self.task, [payload]))[0]
                else:
                    end = await self.share(_Part(payload, calls, left == retries))
                return _decode(end, calls, written)
            except RemoteError as error:
                if error.kind != LOST or left == 0:
                    raise
            if left == 1 and calls > 1:
                return await self.end_each(payload)

    async def end_each(self, payload):
        """The last time a task for each call: one that kills its machine takes no other with it."""
        async def end(call):
            try:
                part = _Part(_task.dumps([call], _as_it_is), 1, False)
                return _decode(await self.share(part), 1, ())
            except RemoteError as error:
                return [None], {0: error}, 0

        ends = await asyncio.gather(*[end(call) for call in _task.loads(payload)])
        failures = {place: failures[0] for place, (_, failures, _) in enumerate(ends) if failures}
        return [values[0] for values, _, _ in ends], failures, sum(took for _, _, took in ends)

    # A task costs about a millisecond, and who adds to a batch faster than that makes small chunks. So there are two
    # tasks for each place of the engine's, and what comes meanwhile waits, and shares the next one.

    async def share(self, part):
        self.waiting.append(part)
        self.give()
        try:
            return await part.waiter
        except asyncio.CancelledError:
            if part.runner is not None and all(other.waiter.done() for other in part.others):
                part.runner.cancel()
            raise

    def give(self):
        while self.waiting and self.tasks < 2 * _width:
            parts = self.take()
            if not parts:
                continue
            self.tasks += 1
            # In a context of its own: it is none of the calls' code.
            runner = contextvars.Context().run(asyncio.ensure_future, self.run(parts))
            for part in parts:
                part.runner, part.others = runner, parts

    def take(self):
        """Of one task. With crews on the machines a part is a worker's, and others do not wait for it."""
        parts, left, most = [], TASK_S * _parts, max(_parts, -(-len(self.waiting) // _width))
        while self.waiting and (not parts or (left > 0 and len(parts) < most and self.shares_tasks())):
            if parts and not (parts[0].shares and self.waiting[0].shares):
                break
            part = self.waiting.popleft()
            if not part.waiter.done():
                parts.append(part)
                left -= part.calls * (self.call_s or 0)
        return parts

    def shares_tasks(self):
        return self.call_s is not None or _parts > 1

    async def run(self, parts):
        try:
            ends = await _send(self.task, [part.payload for part in parts])
            if all(end[1] is not None for end in ends):
                self.call_s = sum(end[0] for end in ends) / sum(part.calls for part in parts) / 1e9
            for part, end in zip(parts, ends):
                if not part.waiter.done():
                    part.waiter.set_result(end)
        except Exception as error:
            for part in parts:
                if not part.waiter.done():
                    part.waiter.set_exception(error)
        finally:
            self.tasks -= 1
            self.give()
