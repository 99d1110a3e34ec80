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
