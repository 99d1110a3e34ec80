"""pycrew, as Python sees it inside a worker.

worker            this worker's number, from 0; None in the zygote, while modules are preloaded
deadline()        seconds left until this call's deadline, or None
DeadlineExceeded  raised in a call whose deadline passed, or that was cancelled; a BaseException,
                  so that `except Exception` does not swallow it
"""

try:
    from _pycrew import DeadlineExceeded, deadline
except ImportError as error:
    raise ImportError("the module pycrew is there only inside a pycrew worker") from error

__all__ = ["DeadlineExceeded", "deadline", "worker"]

worker = None
