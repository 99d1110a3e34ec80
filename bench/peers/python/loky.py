"""loky, as it comes with joblib: its reusable executor, submit for single calls, map with chunks. It breaks with a
worker's death; the next one asked for is another."""

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from . import executor


class Peer(executor.Peer):
    modules = ("joblib",)
    broken = BrokenProcessPool

    def open(self):
        self.executor = get_reusable_executor(max_workers=self.workers, timeout=None)

    def reopen(self):
        self.open()

    def close(self):
        self.executor.shutdown(kill_workers=True)
