"""pycrew, as Python sees it inside a worker.

worker            this worker's number, from 0; None in the zygote, while modules are preloaded
deadline()        seconds left until this call's deadline, or None; in a coroutine and its tasks, that call's
empty(shape, dtype=float)
                  an array in the crew's shared memory, not initialized: a call that returns it, or a
                  view of most of it, returns it without a copy
host              the program that this worker belongs to: host.name(...) calls the function that it has
                  exported by that name (pycrew_export), and waits for its answer
async_host        the same for coroutines: await async_host.name(...); others go on meanwhile
DeadlineExceeded  raised in a call whose deadline passed, or that was cancelled; a BaseException,
                  so that `except Exception` does not swallow it
"""

try:
    from _pycrew import DeadlineExceeded, _host_functions, deadline, empty
except ImportError as error:
    raise ImportError("the module pycrew is there only inside a pycrew worker") from error

import atexit as _atexit
import faulthandler as _faulthandler
import linecache as _linecache
import os as _os
import signal as _signal
import sys as _sys

__all__ = ["DeadlineExceeded", "async_host", "deadline", "empty", "host", "worker"]

worker = None


class _Host:
    """Functions of the host, asked for when first used, and kept."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__.update(_host_functions())
        if name not in self.__dict__:
            known = ", ".join(sorted(self.__dict__)) or "nothing"
            raise AttributeError(f"the host exports no function {name!r}; it exports {known}")
        return self.__dict__[name]

    def __dir__(self):
        self.__dict__.update(_host_functions())
        return sorted(self.__dict__)

    def __repr__(self):
        return "<pycrew.host>"


host = _Host()


class _AsyncHost:
    """The same functions as coroutine functions. Each call waits in a thread: a worker may have eight calls to its host at
    a time, and one is left for those that do not await. They are made when they are needed, and end with the worker."""

    _threads = None

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        async def ask(*arguments, **keywords):
            import asyncio
            import contextvars
            loop = asyncio.get_running_loop()
            context = contextvars.copy_context()

            def wait():
                return getattr(host, name)(*arguments, **keywords)

            return await loop.run_in_executor(self._pool(), context.run, wait)

        ask.__name__ = ask.__qualname__ = name
        self.__dict__[name] = ask
        return ask

    def __dir__(self):
        return dir(host)

    def __repr__(self):
        return "<pycrew.async_host>"

    def _pool(self):
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor
            self._threads = ThreadPoolExecutor(7, "pycrew.async_host")
        return self._threads


async_host = _AsyncHost()


# What follows is called by pycrew-worker. It is compiled before the fork, so that its pages are
# shared.

def _prepare(interrupt, interrupt_signal):
    """In the zygote, before the preload. Lines must not wait in a buffer: they are the last words
    of a worker that is about to crash."""
    for stream in _sys.stdout, _sys.stderr:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    _signal.signal(interrupt_signal, interrupt)


def _after_fork(number, fault_fd, stack_signal, mark):
    """In a worker. Python's own random is seeded anew by its at-fork hook, numpy's is not."""
    global worker
    worker = number
    if mark is not None:
        _os.environ["PYCREW_MARK"] = mark  # for processes that get a copy of it
    if fault_fd >= 0:
        _faulthandler.enable(file=fault_fd, all_threads=True)
        _faulthandler.register(stack_signal, file=fault_fd, all_threads=False)  # see worker/stack.c

        # The file is the worker's: the stack of a child of the user's would be taken for its own.
        def in_child():
            _faulthandler.unregister(stack_signal)
            if _faulthandler.is_enabled():
                _faulthandler.enable(file=2)

        _os.register_at_fork(after_in_child=in_child)
    random = _sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _dtype(text):
    """numpy's type of a text that _dtype_text made, or that numpy.dtype takes."""
    import numpy
    if text.startswith("["):
        import ast
        dtype = numpy.lib.format.descr_to_dtype(ast.literal_eval(text))
    else:
        dtype = numpy.dtype(text)
    if dtype.hasobject:
        raise TypeError(f"an array of Python objects ({text}) cannot be given to another process")
    return dtype


def _dtype_text(dtype):
    """The text of a type; None for one of objects."""
    import numpy
    if dtype.hasobject:
        return None
    descr = numpy.lib.format.dtype_to_descr(dtype)
    return descr if isinstance(descr, str) else repr(descr)


def _fill(out, result):
    """Copies what a function returned for a map's slice into the output's."""
    if isinstance(out, memoryview):
        result = memoryview(result)
        if result.shape != out.shape:
            raise ValueError(_mismatch(out, result))
        out[:] = result
        return
    import numpy
    result = numpy.asarray(result)
    if result.shape != out.shape:
        raise ValueError(_mismatch(out, result))
    numpy.copyto(out, result, casting="same_kind")


def _mismatch(out, result):
    return f"the function returned an array of shape {result.shape} for an output slice of shape {out.shape}"


def _remember_source(file, source):
    """So that a traceback shows the lines of a function's source text."""
    _linecache.cache[file] = len(source), None, source.splitlines(True), file


def _end():
    """What Python does at its end, but for freeing memory: threads that are no daemons end first, and
    executors with them, then come the exit functions."""
    threading = _sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
    finally:
        _atexit._run_exitfuncs()
    for stream in _sys.stdout, _sys.stderr:
        if stream is not None:
            stream.flush()
