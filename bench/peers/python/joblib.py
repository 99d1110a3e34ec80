"""joblib.Parallel, kept open; a single call is a list of one. It breaks with a worker's death, and is opened
again."""

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool


class Peer:
    modules = ("joblib",)

    def __init__(self, workers):
        self.workers = workers
        self.ways = {"parallel": self.parallel}
        self.open()

    def open(self):
        self.kept = Parallel(n_jobs=self.workers).__enter__()

    def one(self, function, arguments):
        return self.parallel(function, [arguments])[0]

    def parallel(self, function, calls):
        try:
            return self.kept(delayed(function)(*arguments) for arguments in calls)
        except BrokenProcessPool:
            self.open()
            raise

    def close(self):
        self.kept.__exit__(None, None, None)
