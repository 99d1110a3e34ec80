"""mpi4py.futures: MPIPoolExecutor over workers that mpirun started, submit for single calls, starmap with chunks.
MPI has no way to go on when one of its processes dies."""

from mpi4py.futures import MPIPoolExecutor

from .chunks import chunk_for


class Peer:
    modules = ("mpi4py",)

    def __init__(self, workers):
        self.workers = workers
        self.executor = MPIPoolExecutor(workers)
        self.ways = {"starmap": self.starmap}

    def one(self, function, arguments):
        return self.executor.submit(function, *arguments).result()

    def starmap(self, function, calls):
        return self.executor.starmap(function, calls, chunksize=chunk_for(len(calls), self.workers))

    def close(self):
        self.executor.shutdown()
