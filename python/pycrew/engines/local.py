"""The plain reference: processes on this machine, by concurrent.futures."""

import concurrent.futures


class _Pool(concurrent.futures.ProcessPoolExecutor):
    def pycrew_close(self):
        processes = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # what they run is nobody's any more
            process.kill()


def pool(max_workers=None):
    return _Pool(max_workers)
