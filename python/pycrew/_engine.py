"""The bridge: a worker that runs nothing itself, but gives its calls to a concurrent.futures.Executor. Called by
pycrew-worker (worker/engine.c), in its event loop."""

import asyncio
import concurrent.futures
import functools
import importlib
import json
import os
import pickle
import sys

from pycrew import _task

LOST = 12  # enum pc_result_kind in lib/shm/slot.h
EXIT_LOST = 96  # PC_EXIT_ENGINE_LOST in lib/shm/control.h
WIDTH_LOOK_S = 2

_executor = None
_name = None
_setup = None
_fault_fd = -1
_looked = 0


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
    _name, _setup, _fault_fd = name, _task.Setup(path, preload, init), fault_fd
    keywords = json.loads(options) if options else {}
    if not isinstance(keywords, dict):
        raise TypeError(f"engine_options is no JSON object, but {options}")
    _executor = _find(name)(**keywords)
    if not callable(getattr(_executor, "submit", None)):
        raise TypeError(f"the engine {name} made no concurrent.futures.Executor, but an object of type "
                        f"{type(_executor).__name__}")
    return width()


def _find(name):
    module, _, names = name.partition(":")
    found = importlib.import_module(module)
    for part in names.split("."):
        found = getattr(found, part)
    return found


def width():
    """How many tasks run at a time, as far as the executor says."""
    own = getattr(_executor, "pycrew_width", None)
    count = own() if own is not None else getattr(_executor, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else os.cpu_count() or 1


def end():
    """At the worker's end."""
    close = getattr(_executor, "pycrew_close", None)
    if close is not None:
        close()
    elif _executor is not None:
        _executor.shutdown(wait=False, cancel_futures=True)


# ---- losing it ----

def _lose(why):
    """Nothing that was given to the executor will end: this process does, and so its calls. The host starts the
    next one, which calls the factory again. Never inside of a call's own step, which would be blamed for it."""
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
    if error is not None and _is_lost(error):
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
        raise RemoteError(LOST, None, f"the engine {_name} lost the task: {_describe(error)}", None)
    return future.result()



async def _call(task, payload):
    _, ends, failures = await _send(task, payload)
    if ends is None:
        raise RemoteError(*failures)
    if failures:
        raise RemoteError(*failures[0])
    return pickle.loads(ends[0]) if type(ends) is list else pickle.loads(ends)[0]


async def _call_many(task, payload, count):
    """Values; by place, exceptions; nanoseconds that it took there."""
    took, ends, failures = await _send(task, payload)
    if ends is None:
        raise RemoteError(*failures)
    failures = {place: RemoteError(*failure) for place, failure in failures.items()}
    if type(ends) is not list:
        return pickle.loads(ends), failures, took
    values = []
    for place in range(count):
        value = None
        if place not in failures:
            try:
                value = pickle.loads(ends[place])
            except Exception as error:
                failures[place] = error
        values.append(value)
    return values, failures, took


class Function:
    """What a call runs instead of the function: it is not looked up here, but where the task runs."""

    def __init__(self, name, source):
        self.task = _task.Task(name, source, _setup)

    def __call__(self, *arguments, **keywords):
        return _call(self.task, pickle.dumps([(arguments, keywords)], 5))

    def many(self, calls):
        """calls: (arguments, keywords) each; None: is not to be run."""
        return _call_many(self.task, pickle.dumps(calls, 5), len(calls))
