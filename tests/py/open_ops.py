"""What the tests of pycrew_open call."""
import os
import time

from api_ops import note, wait_for


def note_init():
    note(os.environ["TEST_INIT_NOTE"])


def meet(mine, others):
    """Ends only when another call runs at the same time."""
    note(mine)
    return wait_for(others)


def init_sleeps():
    time.sleep(3600)


def meet_all(path, count):
    """Ends only when that many of it run at the same time."""
    note(path)
    end = time.monotonic() + 20
    while os.stat(path).st_size < count:
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.0005)
