"""concurrent.futures.ProcessPoolExecutor: submit for single calls, map with chunks. It breaks with a worker's
death; a new one takes its place."""

import concurrent.futures
from concurrent.futures.process import BrokenProcessPool

from .chunks import chunk_for


class Peer:
    modules = ()
    broken = BrokenProcessPool

    def __init__(self, workers):
        self.workers = workers
        self.ways = {"map": self.map}
        self.open()

    def open(self):
        self.executor = concurrent.futures.ProcessPoolExecutor(self.workers)

    def reopen(self):
        self.executor.shutdown(wait=False)
        self.open()

    def one(self, function, arguments):
        try:
            return self.executor.submit(function, *arguments).result()
        except self.broken:
            self.reopen()
            raise

    def map(self, function, calls):
        chunk = chunk_for(len(calls), self.workers)
        columns = zip(*calls) if calls[0] else ()
        try:
            if columns:
                yield from self.executor.map(function, *columns, chunksize=chunk)
            else:  # map has no calls without arguments
                yield from self.executor.map(Bare(function), calls, chunksize=chunk)
        except self.broken:
            self.reopen()
            raise

    def close(self):
        self.executor.shutdown()


class Bare:
    def __init__(self, function):
        self.function = function

    def __call__(self, _):
        return self.function()
