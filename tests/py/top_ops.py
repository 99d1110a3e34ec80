"""Functions that tests/cli-top.t looks at from outside."""
import os
import signal
import time


def deep(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


def hold(path):
    """Runs until the file is there."""
    return deep(path)


def hold_deaf(path):
    """The same, without a handler for the signal that asks for the stack."""
    signal.signal(signal.SIGRTMAX - 2, signal.SIG_DFL)
    open(path + ".deaf", "w").close()
    return deep(path)


def doze(seconds):
    time.sleep(float(seconds))
    return seconds
