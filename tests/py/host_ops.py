"""Functions that ask their host: called by tests/test-export.c and tests/test-export-death.c."""
import os
import signal
import threading
import time

import pycrew
from pycrew import host


def np():
    """Imported when it is asked for: some tests are in a hurry."""
    import numpy
    return numpy


def ask(name, *arguments):
    return getattr(host, name)(*arguments)


def evaluate(text):
    return eval(text)


def execute(text):
    space = {}
    exec(text, globals(), space)
    return space.get("result")


def caught(text):
    """The exception that the expression raises, in words."""
    try:
        return f"returned {eval(text)!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def many(name, count):
    function = getattr(host, name)
    return sum(function(i) for i in range(count))


def threads(count, times):
    """All of them ask at once; what each adds up."""
    sums = [0] * count

    def run(number):
        for i in range(times):
            sums[number] += host.add(number, i)

    running = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sums


def other_threads_go_on():
    """While one thread waits for the host, another counts."""
    counted = 0
    done = threading.Event()

    def wait():
        host.wait_for_gate()
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not done.is_set():
        counted += 1
        if counted == 1000:
            host.open_gate()
        time.sleep(0)
    thread.join()
    return counted >= 1000


def interrupted():
    """Waits for the host until the deadline's exception comes, and says so by the host."""
    try:
        host.wait_for_gate()
    except pycrew.DeadlineExceeded:
        host.note("interrupted")
        raise


def look_up():
    """Stays a while, so that a call beside it goes to the other worker."""
    host.wait_for_gate
    time.sleep(0.1)


def ring_when_entered():
    while host.entered() == 0:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGALRM)


def gives_up(entered=False):
    """A signal's handler of the user's raises out of the wait: soon, or when the host's function runs."""
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    if entered:
        threading.Thread(target=ring_when_entered).start()
    else:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        host.wait_for_gate()
        raise ValueError("not interrupted")
    except Alarm:
        pass
    finally:
        signal.signal(signal.SIGALRM, before)


def alarmed():
    """The next request gets its own answer."""
    gives_up(entered=True)
    host_answers = []
    thread = threading.Thread(target=lambda: host_answers.append(host.add(20, 22)))
    thread.start()
    host.open_gate()
    thread.join()
    return host_answers[0] + host.add(1, 2)


def in_child():
    """What a forked child is told, and that its parent's requests go on."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            host.add(1, 2)
            text = "answered"
        except RuntimeError as error:
            text = str(error)
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return f"{host.add(1, 2)} {text}"


class Asks:
    """Its pickling asks the host."""

    def __reduce__(self):
        return int, (host.add(40, 2),)


def nested():
    return host.size_of(Asks()) > 0


def die_asking():
    threading.Timer(0.001, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    host.wait_for_gate()


def at_exit():
    host.note("exit")


def at_init():
    try:
        host.add(1, 2)
    except RuntimeError as error:
        global init_error
        init_error = str(error)


def init_said():
    return init_error


def wrong_answers(count):
    """Asks so often: how many answers are to another question."""
    pid, wrong = os.getpid(), 0
    for i in range(count):
        total, text = host.add(i, 2 * i, pid)
        wrong += total != 3 * i or text != (b"0123456789abcdef" if i % 2 else b"")
    return wrong


def crowd(count):
    """More threads wait for the host than it has places for; the last one opens the gate."""
    answered = []
    waiting = [threading.Thread(target=lambda: answered.append(host.wait_for_gate())) for _ in range(count)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    return len(answered)


def multiply_together(name, a, b):
    """Waits a little first, so that the other worker has its call, too."""
    function = getattr(host, name)
    time.sleep(0.05)
    return function(a, b)


beside = "nothing yet"


def ask_beside(seconds):
    """A thread goes on when this call has returned; meanwhile the next call keeps the worker busy."""
    def run():
        global beside
        try:
            beside = str(host.multiply(6, 7))
        except Exception as error:
            beside = repr(error)

    threading.Thread(target=run).start()
    time.sleep(seconds)


def answer_beside():
    return beside


class Asker:
    """Its methods ask the host, which asks it, or another one."""

    def ask(self, name, *arguments):
        try:
            return f"returned {ask(name, *arguments)}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def get(self):
        return 42


async def await_gate():
    """Others go on meanwhile."""
    return await pycrew.async_host.wait_for_gate()


async def await_sums(count):
    import asyncio
    return sum(await asyncio.gather(*(pycrew.async_host.add(i, 1) for i in range(count))))


async def give_up(seconds):
    """As often as there are threads for it: whether all of them are free then."""
    import asyncio
    import threading

    async def once():
        try:
            await asyncio.wait_for(pycrew.async_host.wait_for_gate(), seconds)
        except asyncio.TimeoutError:
            return 1
        return 0

    given_up = sum(await asyncio.gather(*(once() for _ in range(7))))
    loop, all_of_them = asyncio.get_running_loop(), threading.Barrier(7)
    await asyncio.gather(*(loop.run_in_executor(pycrew.async_host._threads, all_of_them.wait, 15) for _ in range(7)))
    return given_up


async def await_caught(name):
    try:
        return await getattr(pycrew.async_host, name)()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
