"""Preloaded by pycrew-bench: a heavy import, and when it was through."""

import time

import numpy  # noqa: F401

from bench_ops import hold  # noqa: F401  (preloaded too: a worker's memory is to be measured, not an import)

IMPORT_END = time.monotonic_ns()


def import_end():
    return IMPORT_END
