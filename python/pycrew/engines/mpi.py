"""MPI, by mpi4py.futures: the ranks of a job that mpiexec started, or processes that MPI starts.

    mpiexec -n 1 PROGRAM : -n 3 python3 .../pycrew/engines/mpi.py

PROGRAM is any program that uses pycrew, and does not call MPI_Init itself: its bridge does that in its place, as
rank 0. The other ranks run this file, as a program, and serve until that crew is closed."""


def _import():
    try:
        import mpi4py.futures
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"this engine needs mpi4py, which is not there ({error}): install the Debian package "
                          "python3-mpi4py, or mpi4py from PyPI") from None
    return MPI, mpi4py.futures


def comm(**options):
    """The other ranks of this job. options: of mpi4py.futures.MPICommExecutor."""
    MPI, futures = _import()
    world = MPI.COMM_WORLD
    if world.Get_rank() != 0 or world.Get_size() < 2:
        raise RuntimeError(f"the engine pycrew.engines.mpi:comm is for rank 0 of an MPI job with more ranks, and this is "
                           f"rank {world.Get_rank()} of {world.Get_size()}: start it by "
                           f"mpiexec -n 1 PROGRAM : -n 3 python3 {__file__}")
    context = futures.MPICommExecutor(world, root=0, **options)
    executor = context.__enter__()

    def close():
        context.__exit__(None, None, None)
        MPI.Finalize()  # a worker ends without Python's finalization, which would do it

    executor.pycrew_close = close
    executor.pycrew_width = lambda: world.Get_size() - 1
    return executor


def pool(max_workers=None, **options):
    """Processes that MPI_Comm_spawn starts. options: of mpi4py.futures.MPIPoolExecutor."""
    MPI, futures = _import()
    executor = futures.MPIPoolExecutor(max_workers, **options)
    executor.bootup()

    def close():
        executor.shutdown(wait=True)
        MPI.Finalize()

    executor.pycrew_close = close
    executor.pycrew_width = lambda: executor._max_workers or max_workers or 1
    return executor


def serve():
    """A rank that runs tasks, until rank 0 ends."""
    MPI, futures = _import()
    with futures.MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        if executor is not None:
            raise SystemExit("rank 0 is to be the program that uses pycrew")


if __name__ == "__main__":
    serve()
