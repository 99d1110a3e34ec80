"""What the bridge calls. Plain Python: nothing in here knows of pycrew, C or C++."""

import os
import signal


def add(a: int, b: int) -> int:
    return a + b


def divide(a: int, b: int) -> int:
    """Rounds down, as a // b does; b = 0 raises."""
    return a // b


def crash() -> None:
    """Dies as a segmentation fault in some extension module would: without a word."""
    os.kill(os.getpid(), signal.SIGKILL)
