"""MPI, by mpi4py.futures: the ranks of a job that mpiexec started, or processes that MPI starts.

    PYCREW_ENGINE=pycrew.engines.mpi:comm mpiexec -n 4 python3 .../pycrew/engines/mpi.py PROGRAM [ARGUMENT]...

Each rank runs this file. Rank 0 starts PROGRAM, which need not know of MPI and may open any number of crews, and
gives their tasks to the other ranks; PROGRAM's exit status is the job's. Crews and rank 0 talk over a socket: an MPI
process that is started twice, forked or killed would take the job with it."""

import concurrent.futures
import itertools
import os
import pickle
import sys
import threading
from multiprocessing.connection import Client, Listener

SOCKET = "PYCREW_MPI_SOCKET"
WIDTH = "PYCREW_MPI_WIDTH"


def _import():
    try:
        import mpi4py.futures
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"this engine needs mpi4py, which is not there ({error}): install the Debian package "
                          "python3-mpi4py, or mpi4py from PyPI") from None
    return MPI, mpi4py.futures


# A message is a number and a pickle, which rank 0 passes on as it is.

def _send(connection, number, data):
    connection.send_bytes(number.to_bytes(8, "little"))
    connection.send_bytes(data)


def _receive(connection):
    return int.from_bytes(connection.recv_bytes(), "little"), connection.recv_bytes()


def _run_pickled(data):
    """In a rank: the result and None, or None and the exception; pickled."""
    try:
        function, arguments, keywords = pickle.loads(data)
        return _pickle_end(function(*arguments, **keywords), None)
    except BaseException as error:
        return _pickle_end(None, error)


def _pickle_end(result, error):
    try:
        return pickle.dumps((result, error), 5)
    except Exception as failure:
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error} ({failure})")), 5)


# ---- in a bridge ----

class _Executor(concurrent.futures.Executor):
    """Tasks go to rank 0, and come back."""

    def __init__(self, connection, width):
        self._connection, self.pycrew_width = connection, lambda: width
        self._numbers, self._futures, self._lock = itertools.count(), {}, threading.Lock()
        threading.Thread(target=self._receive, daemon=True).start()

    def submit(self, function, /, *arguments, **keywords):
        future, number = concurrent.futures.Future(), next(self._numbers)
        with self._lock:
            self._futures[number] = future
        future.add_done_callback(lambda ended: self._cancel(number) if ended.cancelled() else None)
        if not self._send(number, pickle.dumps((function, arguments, keywords), 5)):
            raise concurrent.futures.BrokenExecutor("rank 0 of the MPI job is gone")
        return future

    def _cancel(self, number):
        with self._lock:
            self._futures.pop(number, None)
        self._send(number, b"")

    def _send(self, number, data):
        try:
            with self._lock:
                _send(self._connection, number, data)
        except OSError:
            return False
        return True

    def _receive(self):
        try:
            while True:
                number, data = _receive(self._connection)
                with self._lock:
                    future = self._futures.pop(number, None)
                if future is None or not future.set_running_or_notify_cancel():
                    continue
                try:
                    result, error = pickle.loads(data)
                except Exception as failure:
                    result, error = None, RuntimeError(f"the rank's answer cannot be read here: {failure!r}")
                future.set_result(result) if error is None else future.set_exception(error)
        except Exception:  # it has ended, or speaks in words that are not understood
            with self._lock:
                left = list(self._futures.values())
            for future in left:
                if future.set_running_or_notify_cancel():
                    future.set_exception(concurrent.futures.BrokenExecutor("rank 0 of the MPI job is gone"))

    def pycrew_close(self):
        self._connection.close()


def comm():
    """The other ranks of the job that this file runs on."""
    if SOCKET not in os.environ:
        _import()
        raise RuntimeError("the engine pycrew.engines.mpi:comm is for programs that are started by "
                           f"mpiexec -n 4 python3 {os.path.abspath(__file__)} PROGRAM")
    return _Executor(Client(os.environ[SOCKET], "AF_UNIX"), int(os.environ[WIDTH]))


def pool(max_workers=None, **options):
    """Processes that MPI_Comm_spawn starts. options: of mpi4py.futures.MPIPoolExecutor."""
    MPI, futures = _import()
    executor = futures.MPIPoolExecutor(max_workers, **options)
    executor.bootup()

    def close():
        executor.shutdown(wait=True)
        MPI.Finalize()  # a worker ends without Python's finalization, which would do it

    executor.pycrew_close = close
    return executor


# ---- in the ranks ----

def _serve_crew(connection, executor):
    futures, lock = {}, threading.Lock()

    def answer(number, future):
        if futures.pop(number, None) is None or future.cancelled():
            return
        error = future.exception()
        data = future.result() if error is None else _pickle_end(None, error)
        try:
            with lock:
                _send(connection, number, data)
        except OSError:
            pass  # the crew is gone

    try:
        while True:
            number, call = _receive(connection)
            if call:
                futures[number] = future = executor.submit(_run_pickled, call)
                future.add_done_callback(lambda ended, number=number: answer(number, ended))
            elif number in futures:
                futures.pop(number).cancel()
    except (EOFError, OSError):
        for future in list(futures.values()):
            future.cancel()


def _accept(listener, executor):
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve_crew, args=(connection, executor), daemon=True).start()


def _run(program, executor, width):
    """In rank 0."""
    import subprocess
    import tempfile
    with tempfile.TemporaryDirectory(prefix="pycrew-mpi-") as folder:  # none but this user may look into it
        path = os.path.join(folder, "socket")
        with Listener(path, "AF_UNIX", backlog=64) as listener:
            threading.Thread(target=_accept, args=(listener, executor), daemon=True).start()
            # What mpiexec told this rank is not the program's.
            ours = ("OMPI_", "PMIX_", "PMI_", "MPI_", "HYDRA_", "MPICH_")
            kept = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
            environment = {name: value for name, value in os.environ.items()
                           if not name.startswith(ours) or name in kept}
            status = subprocess.run(program, env={**environment, SOCKET: path, WIDTH: str(width)}).returncode
    return status if status >= 0 else 128 - status


def main():
    MPI, futures = _import()
    if len(sys.argv) < 2 or MPI.COMM_WORLD.Get_size() < 2:
        raise SystemExit(f"usage: mpiexec -n N python3 {sys.argv[0]} PROGRAM [ARGUMENT]..., N at least 2")
    status = 0
    with futures.MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        if executor is not None:
            status = _run(sys.argv[1:], executor, MPI.COMM_WORLD.Get_size() - 1)
            executor.shutdown(wait=True, cancel_futures=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
