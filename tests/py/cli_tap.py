"""Tests of the command: each a function, run in a directory of its own; TAP to stdout."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

TOP = os.environ.get("top_srcdir") or os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.environ.get("top_builddir") or os.path.join(TOP, "build")
PYCREW = os.environ.get("PYCREW_COMMAND") or os.path.join(BUILD, "cli", "pycrew")
OPS = os.path.join(TOP, "tests", "py")
LIMIT_S = float(os.environ.get("CLI_TEST_LIMIT_S", 60))

tests = []


class Skip(Exception):
    """Raised by a test that cannot be done here: why."""


def test(function):
    tests.append(function)
    return function


class Ended:
    """How a run of the command ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def lines(self):
        return self.out.decode().splitlines()

    def __repr__(self):
        return f"exit {self.code}\n--- stdout\n{self.out[:2000]}\n--- stderr\n{self.err[:3000]}"


def command(*words):
    """The command line; MODULE:FUNCTION without a module is one of cli_ops."""
    words = [str(word) for word in words]
    words = ["cli_ops" + word if word.startswith(":") else word for word in words]
    return [PYCREW, words[0], "--path", OPS] + words[1:]


def start(*words, **options):
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command(*words), **options)


def end(process, give=None):
    try:
        out, err = process.communicate(give, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {LIMIT_S} s: {process.args}\n{err.decode()[-2000:]}")
    return Ended(process.returncode, out or b"", (err or b"").decode(errors="replace"))


def run(*words, give=b"", **options):
    give = give.encode() if isinstance(give, str) else give
    return end(start(*words, **options), give)


def equal(got, expected, where=""):
    assert got == expected, f"{where}\n got      {got!r:.2000}\n expected {expected!r:.2000}"


def check(ended, code, out=None, err=()):
    """The exit code, stdout (text or bytes, None: any), and pieces of stderr."""
    assert ended.code == code, f"expected exit {code}: {ended}"
    if out is not None:
        expected = out.encode() if isinstance(out, str) else out
        assert ended.out == expected, f"expected {expected!r:.2000}: {ended}"
    for piece in [err] if isinstance(err, str) else err:
        assert piece in ended.err, f"expected {piece!r} in stderr: {ended}"
    return ended


def write(name, contents):
    with open(name, "wb") as out:
        out.write(contents.encode() if isinstance(contents, str) else contents)
    return name


def read(name):
    with open(name, "rb") as file:
        return file.read()


def wait_until(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S} s: {what}"
        time.sleep(0.005)


def children_left(process):
    """Processes that still run a worker for a command that has ended."""
    left = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"CLI_TEST_RUN={process}".encode() in file.read().split(b"\0"):
                    left.append(int(pid))
        except OSError:
            pass
    return left


def run_one(function):
    before, folder = os.getcwd(), tempfile.mkdtemp(prefix="pycrew-cli-")
    os.chdir(folder)
    try:
        function()
        return None
    except Skip as skip:
        return skip
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return traceback.format_exc()
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = [t for t in tests if not sys.argv[1:] or any(word in t.__name__ for word in sys.argv[1:])]
    print(f"1..{len(wanted)}", flush=True)
    for number, function in enumerate(wanted, 1):
        started = time.monotonic()
        problem = run_one(function)
        name = function.__name__.replace("_", " ")
        if isinstance(problem, Skip):
            print(f"ok {number} - {name} # SKIP {problem}", flush=True)
            continue
        print(f"{'not ok' if problem else 'ok'} {number} - {name}")
        for line in (problem or "").splitlines():
            print("#", line)
        if time.monotonic() - started > 5:
            print(f"# took {time.monotonic() - started:.1f} s")
        sys.stdout.flush()
