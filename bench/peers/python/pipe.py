"""multiprocessing.Pipe by hand: a process and a pipe for each worker, a function and arguments in, a result out;
many in chunks, each worker given its next one when it has sent back the last."""

import multiprocessing
from multiprocessing.connection import wait

from .chunks import call_each, chunk_for


def serve(pipe):
    while True:
        function, arguments = pipe.recv()
        pipe.send(function(*arguments))


class Worker:
    def __init__(self):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def end(self):
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Peer:
    modules = ()

    def __init__(self, workers):
        self.workers = [Worker() for _ in range(workers)]
        self.ways = {"chunks": self.chunks}

    def replace(self, k):
        self.workers[k].end()
        self.workers[k] = Worker()

    def one(self, function, arguments):
        try:
            self.workers[0].pipe.send((function, arguments))
            return self.workers[0].pipe.recv()
        except (EOFError, OSError):
            self.replace(0)
            raise

    def chunks(self, function, calls):
        size = chunk_for(len(calls), len(self.workers))
        todo = list(range(0, len(calls), size))[::-1]
        results, busy = [None] * len(calls), {}

        def give(k):
            while todo and k not in busy.values():
                begin = todo.pop()
                chunk = calls[begin:begin + size]
                worker = self.workers[k]
                try:
                    worker.pipe.send((call_each, (function, chunk)))
                    busy[worker.pipe] = k
                    at[k] = begin
                except OSError as error:
                    lose(k, begin, error)

        def lose(k, begin, error):
            for i in range(begin, min(begin + size, len(calls))):
                results[i] = error
            self.replace(k)

        at = {}
        for k in range(len(self.workers)):
            give(k)
        while busy:
            for pipe in wait(list(busy)):
                k = busy.pop(pipe)
                try:
                    chunk = pipe.recv()
                    results[at[k]:at[k] + len(chunk)] = chunk
                except (EOFError, OSError) as error:
                    lose(k, at[k], error)
                give(k)
        return results

    def close(self):
        for worker in self.workers:
            worker.end()
