"""User code that misbehaves. `pycrew` is not imported here: children by multiprocessing import this."""
import atexit
import builtins
import collections
import ctypes
import faulthandler
import gc
import itertools
import multiprocessing
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time


def add(a, b):
    return a + b


def note(path):
    with open(path, "a") as file:
        file.write("x")


# ---- ends ----


def leave(how):
    if how == "_exit":
        os._exit(7)
    if how == "exit":
        sys.exit(3)
    if how == "SystemExit":
        raise SystemExit("bye")
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "GeneratorExit":
        raise GeneratorExit
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exec":
        os.execv("/bin/true", ["true"])
    if how == "exec that stays":
        os.execv("/bin/sleep", ["sleep", "1000"])
    if how == "TERM":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "CPU":
        resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
        while True:
            pass
    if how == "thread":
        threading.Thread(target=os._exit, args=(8,)).start()
        time.sleep(1000)
    return how


def overflow():
    """Deep in C, where the recursion limit does not help."""
    sys.setrecursionlimit(10**9)

    @ctypes.CFUNCTYPE(None)
    def again():
        again()

    again()


def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def out_of_address_space(keep):
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + (32 << 20), before[1]))
    try:
        bytearray(1 << 30)
    finally:
        if not keep:
            resource.setrlimit(resource.RLIMIT_AS, before)


def eat_memory():
    kept = []
    while True:
        kept.append(bytearray(b"x") * (4 << 20))


# ---- processes ----


def square(value):
    return value * value


def fork_and(how):
    """How the child ended."""
    pid = os.fork()
    if pid == 0:
        if how == "return":
            return "from the child"
        if how == "raise":
            raise ValueError("in the child")
        if how == "exec":
            os.execv("/bin/true", ["true"])
        if how == "sys.exit":
            sys.exit(5)
        if how == "segfault":
            ctypes.string_at(0)
        os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_die(how):
    """The child crashes, and leaves a stack; then this process ends without one."""
    fork_and(how)
    os.kill(os.getpid(), signal.SIGKILL)


def fork_that_outlives(own_session):
    pid = os.fork()
    if pid == 0:
        if own_session:
            os.setsid()
        time.sleep(1000)
        os._exit(0)
    return pid


def daemonize():
    """The PID of a process that is nobody's child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writing, str(os.getpid()).encode())
            os.closerange(0, 1024)
            time.sleep(1000)
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    daemon = int(os.read(reading, 100))
    os.close(reading)
    return daemon


def daemonize_and_wait(there, go):
    """Writes `there` when the daemon runs, and returns its PID when `go` is there."""
    daemon = daemonize()
    note(there)
    while not os.path.exists(go):
        time.sleep(0.001)
    return daemon


def short_lived_daemons(count):
    for _ in range(count):
        subprocess.run(["/bin/sh", "-c", "true & exit 0"], check=True)


def leave_group():
    """Into the zygote's process group; with a child there."""
    os.setpgid(0, os.getpgid(os.getppid()))
    return subprocess.Popen(["sleep", "1000"]).pid


def session_of_its_own():
    try:
        os.setsid()
    except PermissionError:
        pass
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid


def in_processes(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return sum(pool.map(square, range(10)))


def in_a_process_that_dies():
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(6,))
    process.start()
    process.join()
    return process.exitcode


def run(command):
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True).stdout


# ---- threads ----

left_running = []


def leave_threads(daemon, count):
    for _ in range(count):
        thread = threading.Thread(target=time.sleep, args=(3600,), daemon=daemon)
        thread.start()
        left_running.append(thread)
    return threading.active_count()


def hog():
    """A thread that holds the GIL for some hundredths of a second, again and again."""

    def work():
        value = 3**100000
        while True:
            pow(value, 2)

    threading.Thread(target=work, daemon=True).start()


# ---- descriptors ----


def close_all():
    os.closerange(0, 65536)


def close_all_and_open():
    """Others stand under the numbers then; their paths and what was written to them."""
    os.closerange(0, 65536)
    for _ in range(64):
        os.open("/dev/null", os.O_RDWR)


def close_all_and_steal():
    """Sockets and eventfds stand under the numbers then."""
    os.closerange(0, 65536)
    for _ in range(8):
        socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0].detach()
        os.eventfd(0)


def close_all_and_write(path):
    """A file of its own under every number; asked for its stack, by somebody else, it stays what it is."""
    os.closerange(0, 65536)
    for _ in range(32):
        os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(0, b"x" * 300000)
    ctypes.CDLL(None).sigqueue(os.getpid(), signal.SIGRTMAX - 2, ctypes.c_void_p(1))
    size = os.fstat(0).st_size
    return size == 300000 and os.pread(0, size, 0) == b"x" * size


def no_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def close_streams(how):
    if how == "descriptors":
        os.close(1)
        os.close(2)
    if how == "objects":
        sys.stdout.close()
        sys.stderr.close()
    if how == "None":
        sys.stdout = sys.stderr = None


def say(text):
    print(text)
    return len(text)


def say_lines(count, size):
    line = b"x" * (size - 1) + b"\n"
    whole = line * (65536 // size)
    for _ in range(count // (65536 // size)):
        os.write(1, whole)
    return count // (65536 // size) * len(whole)


def say_bytes(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
    return len(data)


# ---- signals ----


def replace_handlers(how):
    numbers = [signal.SIGRTMAX - 1, signal.SIGRTMAX - 2, signal.SIGTERM, signal.SIGINT, signal.SIGALRM]
    actions = {"ignored": signal.SIG_IGN, "default": signal.SIG_DFL, "own": lambda *_: None}
    for number in numbers:
        signal.signal(number, actions[how])


def block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def stop(path=None):
    if path is not None:
        note(path)
    os.kill(os.getpid(), signal.SIGSTOP)


def alarm():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return 1


def sleep(seconds, path=None):
    if path is not None:
        note(path)
    time.sleep(seconds)
    return 1


# ---- the interpreter turned upside down ----


def replace_builtins():
    for name in "print", "Exception", "BaseException", "int", "str", "list", "dict", "len", "open":
        setattr(builtins, name, None)


def fail_without_builtins():
    raise ValueError("still told")


def replace_modules():
    import json
    import pickle
    import traceback

    import pycrew

    def broken(*_, **__):
        raise RuntimeError("replaced")

    for name in "dumps", "loads":
        setattr(json, name, broken)
        setattr(pickle, name, broken)
    for name in "format_exception", "TracebackException", "StackSummary", "walk_tb":
        setattr(traceback, name, broken)
    for name in "deadline", "_end", "_after_fork", "DeadlineExceeded":
        setattr(pycrew, name, broken)


def remove_modules():
    for name in "_pycrew", "pycrew", "json", "pickle", "traceback", "faulthandler", "builtins":
        sys.modules.pop(name, None)


def no_traceback_module():
    sys.modules["traceback"] = None


def fail_deep(depth=3):
    if depth == 0:
        raise ValueError("at the bottom")
    fail_deep(depth - 1)


def upset_interpreter():
    gc.disable()
    gc.set_threshold(1, 1, 1)
    sys.setswitchinterval(1000)
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)
    threading.settrace(lambda *_: None)


def tracing_that_fails():
    def trace(*_):
        raise RuntimeError("no tracing")

    sys.settrace(trace)


def no_faulthandler():
    faulthandler.disable()


def faulthandler_elsewhere(path):
    faulthandler.enable(open(path, "w"))


def at_exit(how):
    def hang():
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass

    def fail():
        raise RuntimeError("at exit")

    atexit.register(hang if how == "hang" else fail)


class Unhappy:
    def __del__(self):
        raise RuntimeError("in __del__")


class Endless:
    def __del__(self):
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                pass


def drop(kind):
    Unhappy() if kind == "raises" else Endless()
    return 1


kept_objects = []


def keep_endless():
    kept_objects.append(Endless())


def remove_directory(path):
    os.mkdir(path)
    os.chdir(path)
    os.rmdir(path)


def be_nice():
    os.nice(5)


# ---- what an init function may leave behind ----


def init_poison():
    """Workers that die while arguments are made, before the function."""
    gc.callbacks.append(lambda phase, info: os._exit(12) if os.path.exists(os.environ["POISON"]) else None)
    gc.set_threshold(10)


def init_then_die():
    path = os.environ["DIE"]
    if os.path.exists(path):
        note(path)
        threading.Timer(0.01, os._exit, (13,)).start()


# ---- deadlines ----


class SleepsUnpickled:
    def __reduce__(self):
        return sleep, (1000, None)


class SleepsPickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return sleep, (sleep(1000, self.path),)


def return_slow(path):
    return SleepsPickled(path)


def wait_in(how, path):
    """Waits for ever, in this way."""
    note(path)
    if how == "select":
        select.select([], [], [])
    if how == "poll":
        select.poll().poll()
    if how == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    if how == "event":
        threading.Event().wait()
    if how == "subprocess":
        subprocess.run(["sleep", "1000"])
    if how == "read":
        os.read(os.pipe()[0], 1)
    if how == "waitpid":
        os.waitpid(fork_that_outlives(False), 0)
    if how == "join":
        thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
        thread.start()
        thread.join()
    if how == "generator":
        def forever():
            while True:
                yield 1
        for _ in forever():
            pass
    if how == "with":
        with threading.Lock():
            time.sleep(1000)


def hold_gil(how, path):
    note(path)
    if how == "consume":
        collections.deque(itertools.repeat(0), maxlen=0)
    if how == "regex":
        re.match(r"(a*)*b", "a" * 64)
    if how == "pow":
        pow(3, 10**9, 7**200000)
    if how == "str":
        sys.set_int_max_str_digits(0)
        str(7**10000000)


def resist(how, path):
    """Does not let itself be interrupted."""
    note(path)
    if how == "except":
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass
    if how == "finally":
        try:
            time.sleep(1000)
        finally:
            while True:
                pass
    if how == "generator":
        def stubborn():
            while True:
                try:
                    yield time.sleep(0.01)
                except BaseException:
                    pass
        generator = stubborn()
        while True:
            try:
                next(generator)
            except BaseException:
                pass


def one_of(slow, function, how, path):
    """1; or what the function does."""
    if slow:
        globals()[function](how, path)
    return 1


def swallow_and_return(path):
    note(path)
    try:
        time.sleep(1000)
    except BaseException:
        return 5


def asked_all_the_time(seconds):
    """Past its deadline, and asked for its stack ten thousand times a second, while threads come and go and a
    lock is tried that is held: how many threads there were, or how often the lock was acquired, as a negative number."""
    held = threading.Lock()
    held.acquire()
    try:
        time.sleep(1000)
    except BaseException:
        pass
    end = time.monotonic() + seconds
    worker, asker = os.getpid(), os.fork()
    if asker == 0:
        while time.monotonic() < end:
            os.kill(worker, signal.SIGRTMAX - 2)
            time.sleep(0.0001)
        os._exit(0)
    threads = acquired = 0
    while time.monotonic() < end:
        several = [threading.Thread(target=int) for _ in range(3)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        threads += len(several)
        acquired += sum(held.acquire(False) for _ in range(1000))
    os.waitpid(asker, 0)
    return -acquired if acquired else threads


def ask_and_abort(value):
    """Is asked for its stack when it is not about to be killed, by the host (0) or by somebody else."""
    if value:
        ctypes.CDLL(None).sigqueue(os.getpid(), signal.SIGRTMAX - 2, ctypes.c_void_p(value))
    else:
        os.kill(os.getpid(), signal.SIGRTMAX - 2)
    os.abort()


def clean_up(path):
    try:
        time.sleep(1000)
    finally:
        note(path)


def numbered(number, seconds):
    """Its own number; busy for about that long, then asleep, then busy."""
    spin(seconds / 3)
    time.sleep(seconds / 3)
    spin(seconds / 3)
    return number
