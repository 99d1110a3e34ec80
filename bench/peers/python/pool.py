"""multiprocessing.Pool: apply_async for single calls, imap, and starmap with its own chunks. Of a worker that
died the pool says nothing: its call never ends, and is given up after a while."""

import functools
import multiprocessing
import os

from .chunks import star

LIMIT_S = 1.0 if "BENCH_TOLERANT" in os.environ else None


class Peer:
    modules = ()

    def __init__(self, workers):
        self.workers = workers
        self.pool = multiprocessing.Pool(workers)
        self.ways = {"imap": self.imap, "map": self.map}

    def one(self, function, arguments):
        return self.pool.apply_async(function, arguments).get(LIMIT_S)

    def imap(self, function, calls):
        results = self.pool.imap(functools.partial(star, function), calls)
        for _ in calls:
            yield results.next(LIMIT_S)

    def map(self, function, calls):
        return self.pool.starmap_async(function, calls).get(LIMIT_S)

    def close(self):
        self.pool.terminate()
