"""dask.distributed: a LocalCluster of one-threaded worker processes, submit for single calls, map and gather."""

import logging

from dask.distributed import Client, LocalCluster

from .chunks import call_each, chunk_for, star


class Peer:
    modules = ("dask", "distributed")

    def __init__(self, workers):
        self.workers = workers
        self.cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
                                    silence_logs=logging.CRITICAL)
        self.client = Client(self.cluster)
        self.ways = {"map": self.map, "chunks": self.chunks}

    def one(self, function, arguments):
        return self.client.submit(function, *arguments, pure=False).result()

    def map(self, function, calls):
        """A task a call."""
        return self.client.gather(self.client.map(star, [function] * len(calls), calls, pure=False))

    def chunks(self, function, calls):
        """Its documentation's advice for small calls: many of them a task."""
        size = chunk_for(len(calls), self.workers)
        chunks = [calls[i:i + size] for i in range(0, len(calls), size)]
        futures = self.client.map(call_each, [function] * len(chunks), chunks, pure=False)
        for results in self.client.gather(futures):
            yield from results

    def close(self):
        self.client.close()
        self.cluster.close()
