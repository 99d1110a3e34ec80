"""joblib with its loky workers: the reusable executor for single calls, Parallel for many. The executor breaks
with a worker's death; the next one asked for is another."""

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool


class Peer:
    modules = ("joblib",)

    def __init__(self, workers):
        self.workers = workers
        self.executor = self.open()
        self.ways = {"parallel": self.parallel}

    def open(self):
        return get_reusable_executor(max_workers=self.workers, timeout=None)

    def one(self, function, arguments):
        try:
            return self.executor.submit(function, *arguments).result()
        except BrokenProcessPool:
            self.executor = self.open()
            raise

    def parallel(self, function, calls):
        return joblib.Parallel(n_jobs=self.workers)(joblib.delayed(function)(*call) for call in calls)

    def close(self):
        self.executor.shutdown(kill_workers=True)
