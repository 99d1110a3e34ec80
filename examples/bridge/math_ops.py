"""What the bridge calls. Plain Python: nothing in here knows of pycrew, C or C++."""

import os
import signal


def add(a, b):
    return a + b


def divide(a, b):
    return a // b


def crash():
    """Dies as a segmentation fault in some extension module would: without a word."""
    os.kill(os.getpid(), signal.SIGKILL)
