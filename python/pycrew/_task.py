"""What an engine runs: a call, or many, of a function that is named. Its text goes with each task, so that a
machine needs Python and the function's module, and nothing of pycrew. So it imports the standard library only."""

import builtins
import hashlib
import os
import pickle
import socket
import sys
import threading
import time
import traceback

# Kinds of what is no result: enum pc_result_kind in lib/shm/slot.h.
EXCEPTION, NO_FUNCTION, LOST = 2, 5, 12

_PLAIN = frozenset([type(None), bool, int, float, str, bytes])
_lock = threading.Lock()
_functions = {}
_prepared = {}


class Setup:
    """What is to be so in a process of the engine's before its first call; done once in each. nested: its calls run in
    a crew of its own, of so many workers, by the text of _nested.py."""

    def __init__(self, path=(), preload=(), init=None, nested=None):
        self.path, self.preload, self.init, self.nested = tuple(path), tuple(preload), init, nested

    def state(self):
        return self.path, self.preload, self.init, self.nested

    def prepare(self):
        if self.state() in _prepared:
            return
        with _lock:
            if self.state() in _prepared:
                return
            _offer_pycrew()
            sys.path[:0] = [folder for folder in self.path if folder not in sys.path and os.path.isdir(folder)]
            for name in self.preload:
                __import__(name)
            if self.init is not None:
                _find(self.init)()
            _prepared[self.state()] = True


class Task:
    """A named function. Called with pickled arguments of one or many calls, returns pickled ends."""

    def __init__(self, name, source, setup):
        self.__name__ = name  # what an engine's dashboard shows
        self.source, self.setup = source, setup

    def __reduce__(self):
        return builtins.eval, (_LOAD, {"boot": _BOOT, "text": _text(), "state": (self.__name__, self.source, self.setup.state())})

    def __call__(self, payloads):
        if self.setup.nested is not None:
            return self.run_nested(payloads)
        return [self.run(payload) for payload in payloads]

    def run_nested(self, payloads):
        """All at once, each by a worker of this process's crew. The ends are pickles, as they came."""
        try:
            crew = _load(self.setup.nested[1]).crew(self.setup, _text())
        except BaseException as error:
            return [(0, None, _describe(error, NO_FUNCTION), None)] * len(payloads)
        return crew.run(self.__name__, self.source, payloads)

    def run(self, payload):
        """Nanoseconds; a pickle, or one for each call, or None; failures, by place; what was written to arrays."""
        start = time.monotonic_ns()
        try:
            self.setup.prepare()
            function = _look_up(self.__name__, self.source)
            calls = loads(payload)
        except BaseException as error:
            return time.monotonic_ns() - start, None, _describe(error, NO_FUNCTION), None
        written = list(writable(calls[0])) if len(calls) == 1 and calls[0] is not None else []
        ends, failures = [], {}
        for place, call in enumerate(calls):
            try:
                if type(call) is tuple:
                    value = function(*call)
                else:
                    value = call and function(*call[0], **call[1])
                    if call and len(call) > 2 and value is None:  # a map's slice was filled in place
                        value = call[1]["out"]
                if type(value) not in _PLAIN and hasattr(type(value), "__await__"):
                    value = _await(value)
            except BaseException as error:
                failures[place] = _describe(error, EXCEPTION)
                value = None
            ends.append(value)
        ends = _dump(ends, failures)
        return time.monotonic_ns() - start, ends, failures, dumps(written) if written else None


class Buffer:
    """What an array has in it, on its way: pickled without a copy by those who can, else as bytes."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return (memoryview, (pickle.PickleBuffer(self.data),)) if protocol >= 5 else (bytes, (bytes(self.data),))


def dumps(value, wrap=Buffer):
    """A pickle; or, with arrays, a tuple of one and what is in them, copied: they may be written to again."""
    buffers = []
    head = pickle.dumps(value, 5, buffer_callback=buffers.append)
    if not buffers:
        return head
    views = [buffer.raw() for buffer in buffers]
    return head, *[wrap(bytes(view) if view.readonly else bytearray(view)) for view in views]


def loads(pickled):
    if type(pickled) is not tuple:
        return pickle.loads(pickled)
    return pickle.loads(pickled[0], buffers=[getattr(buffer, "data", buffer) for buffer in pickled[1:]])


def run_pickled(name, source, payload):
    """In a nested crew's worker."""
    return pickle.dumps(Task(name, source, Setup()).run(pickle.loads(payload)), 5)


def writable(value):
    """The arrays in a call's arguments that the function may write to, always in the same order."""
    if isinstance(value, (list, tuple)):
        for item in value:
            if type(item) not in _PLAIN:
                yield from writable(item)
    elif isinstance(value, dict):
        yield from writable(list(value.values()))
    elif hasattr(value, "__array_interface__") and value.flags.writeable:
        yield value


def _dump(ends, failures):
    """All in one pickle, if that cannot fail; else a pickle for each."""
    if _PLAIN.issuperset(map(type, ends)):
        return pickle.dumps(ends, 5)
    each = []
    for place, value in enumerate(ends):
        try:
            each.append(dumps(value))
        except Exception as error:
            failures[place] = _describe(error, EXCEPTION)
            each.append(None)
    return each


def _await(awaitable):
    import asyncio

    async def wait():
        return await awaitable

    return asyncio.run(wait())


def _find(name):
    module, _, names = name.partition(":")
    found = __import__(module)
    found = sys.modules[module]
    for part in names.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is not callable: it is of type {type(found).__name__}")
    return found


def _look_up(name, source):
    function = _functions.get((name, source))
    if function is None:
        function = _functions[name, source] = _find(name) if source is None else _find_in_source(name, source)
    return function


def _find_in_source(name, source):
    import linecache
    import types
    file = f"<pycrew source {hashlib.sha256(source.encode()).hexdigest()[:8]}>"
    linecache.cache[file] = len(source), None, source.splitlines(True), file
    found = types.ModuleType("__pycrew_source__")
    exec(compile(source, file, "exec"), found.__dict__)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is not callable: it is of type {type(found).__name__}")
    return found


def _type_name(type_):
    return type_.__qualname__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"


def _describe(error, kind):
    """Kind, type, message and traceback, whatever the exception does when it is asked for them."""
    try:
        message = str(error)
    except BaseException:
        message = "<exception str() failed>"
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals is globals():
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:
        text = message
    return kind, _type_name(type(error)), message, f"On host {socket.gethostname()}, process {os.getpid()}:\n{text}"


def _offer_pycrew():
    """The module pycrew, as far as there is something of it on another machine."""
    try:
        import pycrew  # inside of a worker
        return
    except ImportError:
        pass
    import types
    module = types.ModuleType("pycrew", "pycrew, as an engine's task sees it: on another machine than the host.")

    class DeadlineExceeded(BaseException):
        pass

    class Host:
        def __getattr__(self, name):
            raise AttributeError(f"pycrew.host.{name}: an engine's task cannot call the host's functions")

    def empty(shape, dtype=float):
        import numpy
        return numpy.empty(shape, dtype)

    DeadlineExceeded.__module__ = "pycrew"
    module.DeadlineExceeded, module.host, module.empty = DeadlineExceeded, Host(), empty
    module.worker, module.deadline = None, lambda: None
    sys.modules["pycrew"] = module


def _load(text):
    """A module of this text, made once."""
    scope = {"boot": _BOOT, "text": text}
    return builtins.eval("exec(boot) or load(text)", scope)


# How a task arrives where this module is not. Its name tells its text, so that two versions keep apart.
_BOOT = """
def load(text):
    import hashlib, sys, types
    name = "_pycrew_task_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    if name not in sys.modules:
        module = types.ModuleType(name)
        exec(compile(text, "<pycrew task>", "exec"), module.__dict__)
        module.TEXT = text
        sys.modules[name] = module
    return sys.modules[name]
"""
_LOAD = "exec(boot) or load(text).make(*state)"
TEXT = None


def _text():
    global TEXT
    if TEXT is None:
        with open(__file__, encoding="utf-8") as file:
            TEXT = file.read()
    return TEXT


def make(name, source, setup):
    return Task(name, source, Setup(*setup))
