"""Dask: an existing scheduler, or a cluster on this machine."""


def cluster(address=None, timeout=10, **options):
    """address: of a scheduler, "tcp://host:8786". Without one, options are those of distributed.LocalCluster."""
    try:
        import distributed
        from distributed.cfexecutor import ClientExecutor
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise ImportError(f"the engine pycrew.engines.dask:cluster needs Dask, which is not there ({error}): install "
                          "the Debian package python3-distributed, or distributed from PyPI") from None

    class Executor(ClientExecutor):
        def pycrew_width(self):
            # As the client was last told, each 2 s: asking would wait for a scheduler that may be gone.
            known = getattr(client, "_scheduler_identity", None) or client.scheduler_info()
            return sum(worker["nthreads"] for worker in known.get("workers", {}).values())

        def pycrew_is_lost(self, error):
            return isinstance(error, CommClosedError) or client.status not in ("running", "connecting")

        def pycrew_is_task_lost(self, error):
            return isinstance(error, KilledWorker)

        def pycrew_close(self):
            client.close(timeout=1)
            if local is not None:
                local.close(timeout=5)

    local = distributed.LocalCluster(**options) if address is None else None
    client = distributed.Client(local or address, name="pycrew", timeout=timeout, set_as_default=False,
                                **({} if local else options))
    return Executor(client, pure=False)
