"""A crew of a machine's own, for an engine's tasks there (the option nested). Its text goes with the task; what is needed
there is libpycrew and pycrew-worker, of any version that has these functions."""

import atexit
import collections
import ctypes
import errno
import os
import pickle
import sys
import threading

# Of lib/pycrew.h, and of enum pc_result_kind in lib/shm/slot.h.
FOREVER, EDIED, INHERIT = -1, -2002, 1
EXCEPTION, NO_FUNCTION, LOST = 2, 5, 12

_lock = threading.Lock()
_crews = {}


class Options(ctypes.Structure):
    """The beginning of pycrew_options; its size says so."""
    _fields_ = [("size", ctypes.c_size_t), ("workers", ctypes.c_uint), ("python", ctypes.c_char_p),
                ("path", ctypes.POINTER(ctypes.c_char_p)), ("env", ctypes.c_void_p),
                ("preload", ctypes.POINTER(ctypes.c_char_p)), ("init", ctypes.c_char_p), ("exit", ctypes.c_char_p),
                ("calls", ctypes.c_uint), ("memory", ctypes.c_size_t), ("queues", ctypes.c_uint),
                ("start_timeout_ns", ctypes.c_int64), ("timeout_ns", ctypes.c_int64), ("grace_ns", ctypes.c_int64),
                ("retries", ctypes.c_uint), ("output", ctypes.c_int)]


class Error(ctypes.Structure):
    """The beginning of pycrew_error."""
    _fields_ = [("size", ctypes.c_size_t), ("code", ctypes.c_int), ("function", ctypes.c_char_p),
                ("type", ctypes.c_char_p), ("message", ctypes.c_char_p), ("traceback", ctypes.c_char_p),
                ("signal", ctypes.c_int), ("exit_status", ctypes.c_int), ("may_have_run", ctypes.c_bool)]


def _library():
    name = os.environ.get("PYCREW_LIBRARY", "libpycrew.so.0")
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ImportError("the engine's option nested needs pycrew where its tasks run, and it is not there "
                          f"({error}): install the Debian package pycrew") from None
    library.pycrew_last_error.restype = library.pycrew_call_error.restype = ctypes.POINTER(Error)
    library.pycrew_strerror.restype = ctypes.c_char_p
    library.pycrew_wait.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.pycrew_prepare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    for one in "add_str", "add_bytes":
        getattr(library, f"pycrew_{one}").argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    for one in "add_none", "submit", "release", "close", "call_error":
        getattr(library, f"pycrew_{one}").argtypes = [ctypes.c_void_p]
    return library


def _texts(texts):
    return (ctypes.c_char_p * (len(texts) + 1))(*[os.fsencode(text) for text in texts], None)


class Crew:
    def __init__(self, setup, task):
        self.library, self.pointer, self.function = _library(), ctypes.c_void_p(), ctypes.c_void_p()
        # A crew that was told of an engine by the environment would be no crew of this machine's.
        for variable in "PYCREW_ENGINE", "PYCREW_ENGINE_OPTIONS":
            os.environ.pop(variable, None)
        options = Options(size=ctypes.sizeof(Options), workers=setup.nested[0], output=INHERIT,
                          python=os.fsencode(sys.executable) if sys.executable else None,
                          path=_texts([folder for folder in setup.path if os.path.isdir(folder)]),
                          preload=_texts(setup.preload), init=setup.init and setup.init.encode())
        self.check(self.library.pycrew_open(ctypes.byref(self.pointer), ctypes.byref(options)))
        process = os.getpid()
        atexit.register(lambda: process == os.getpid() and self.library.pycrew_close(self.pointer))
        self.check(self.library.pycrew_function_source(self.pointer, b"run_pickled", task.encode(),
                                                       ctypes.byref(self.function)))

    def check(self, code):
        if code < 0:
            raise self.failure(code)

    def failure(self, code):
        error = self.library.pycrew_last_error().contents
        text = (error.message or b"").decode(errors="replace") + "\n" + (error.traceback or b"").decode(errors="replace")
        return RuntimeError(f"the nested crew: {self.library.pycrew_strerror(code).decode()}: {text.strip()}")

    def run(self, name, source, payloads):
        """For each payload what Task.run returns, or its pickle. As many as may be are submitted before one is waited for."""
        results, calls = [], collections.deque()
        for payload in payloads:
            # Who holds a call never waits for another one's: two threads might hold what both wait for.
            while (call := self.submit(name, source, payload, 0 if calls else FOREVER)) is None:
                results.append(self.end(calls.popleft()))
            calls.append(call)
        return results + [self.end(call) for call in calls]

    def submit(self, name, source, payload, timeout):
        """A call; or how it failed; or None where all calls are in use."""
        call, data = ctypes.c_void_p(), pickle.dumps(payload, 5)
        code = self.library.pycrew_prepare(self.pointer, self.function, timeout, ctypes.byref(call))
        if code == -errno.EAGAIN:
            return None
        if code == 0:
            texts = [text and text.encode() for text in (name, source)]
            for text in texts:
                code = code or (self.library.pycrew_add_none(call) if text is None
                                else self.library.pycrew_add_str(call, text, len(text)))
            code = code or self.library.pycrew_add_bytes(call, data, len(data)) or self.library.pycrew_submit(call)
        if code == 0:
            return call
        failed = 0, None, (NO_FUNCTION, "RuntimeError", str(self.failure(code)), None), None
        self.library.pycrew_release(call)
        return failed

    def end(self, call):
        if isinstance(call, tuple):
            return call
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        try:
            code = self.library.pycrew_wait(call, FOREVER)
            if code == 0:
                code = self.library.pycrew_result_bytes(call, ctypes.byref(data), ctypes.byref(size))
            if code == 0:
                return ctypes.string_at(data, size.value)
            error = self.library.pycrew_call_error(call)
            ran = not error or error.contents.may_have_run
            kind = NO_FUNCTION if not ran else LOST if code == EDIED else EXCEPTION
            return 0, None, (kind, None if kind == LOST else "RuntimeError", str(self.failure(code)), None), None
        finally:
            self.library.pycrew_release(call)


def crew(setup, task):
    """This process's crew for that setup, opened by the first task that needs it; it ends with the process."""
    key = os.getpid(), setup.state()
    with _lock:
        if key not in _crews:
            _crews[key] = Crew(setup, task)
        return _crews[key]
