"""Preloaded by pycrew-bench: a heavy import, and when it was through."""

import time

import numpy  # noqa: F401

IMPORT_END = time.monotonic_ns()


def import_end():
    return IMPORT_END
