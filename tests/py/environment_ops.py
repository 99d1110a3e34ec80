"""What the tests of environments call; run as a program it says the same of a plain interpreter."""
import atexit
import concurrent.futures.thread
import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import threading


def libraries():
    """The files of libpython that this process has loaded."""
    with open("/proc/self/maps") as maps:
        return sorted({line.split(None, 5)[5].strip() for line in maps if "/libpython" in line})


def facts(own=()):
    """What an interpreter is, a line each. own: entries of sys.path that are not its environment's."""
    names = ("version", "executable", "_base_executable", "prefix", "base_prefix", "exec_prefix",
             "base_exec_prefix", "flags", "abiflags", "platlibdir", "float_repr_style")
    lines = [f"{name} {getattr(sys, name)}" for name in names]
    lines += [f"{name} {sysconfig.get_path(name)}" for name in ("stdlib", "purelib", "scripts")]
    lines += [f"path {entry}" for entry in sys.path if os.path.realpath(entry) not in own]
    lines += [f"encodings {sys.getfilesystemencoding()} {sys.stdout.encoding}"]
    return "\n".join(lines + [f"loaded {path}" for path in libraries()])


def facts_here():
    """The same in a worker: without the folders that the crew adds."""
    import pycrew
    added = os.path.dirname(os.path.dirname(os.path.realpath(pycrew.__file__)))
    return facts({os.path.dirname(os.path.realpath(__file__)), added})


def facts_of_child():
    """Those of sys.executable, run as a program."""
    return subprocess.run([sys.executable, os.path.abspath(__file__)], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.rstrip("\n")


def prefix_and_square(number):
    return sys.prefix, sys.executable, number * number


def squares(method):
    """By a pool of processes, which must be of this environment."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        answers = pool.map(prefix_and_square, range(5))
    for prefix, executable, _ in answers:
        if (prefix, executable) != (sys.prefix, sys.executable):
            raise RuntimeError(f"a process runs in {prefix} with {executable}")
    return sum(square for _, _, square in answers)


def import_text(name):
    return __import__(name).text


def outlive_the_main_thread(path):
    """Notes "task", "thread" and "exit" when the interpreter ends, in that order."""
    def note(word):
        with open(path, "a") as file:
            file.write(word + " ")

    def task():
        ending.wait()
        note("task")

    def thread():
        threading.main_thread().join()
        note("thread")

    ending = threading.Event()
    atexit.register(note, "exit")
    threading._register_atexit(ending.set)  # called before the executors' own
    threading.Thread(target=thread).start()
    concurrent.futures.ThreadPoolExecutor(1).submit(task)


def kill_zygote():
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


if __name__ == "__main__":
    here = os.path.dirname(os.path.realpath(__file__))
    print(facts_of_child() if "child" in sys.argv else facts({here}))
