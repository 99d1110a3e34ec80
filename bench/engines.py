#!/usr/bin/env python3
"""What an engine costs beside the same without pycrew: in the build folder,

    ./run ../bench/engines.py [--rounds 7] [--records 1000000] [PART]...

PART: single, batch, arrays, scheduler; default: all. Each round runs all ways once, one after the other, so what else
the machine does hits all alike; the figures are medians, with the lowest and highest, of rounds."""
import argparse
import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bench_engines

CPUS = len(os.sched_getaffinity(0))
MPI = os.path.join(HERE, "..", "python", "pycrew", "engines", "mpi.py")
os.environ.setdefault("PYCREW_LIBRARY", os.path.join(os.getcwd(), "lib", ".libs", "libpycrew.so"))
QUIET = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def dask(workers, threads=1):
    """A scheduler and so many workers: its address."""
    port, processes, folder = free_port(), [], tempfile.mkdtemp()
    # PYTHONPATH: Dask's own tasks are functions of this folder, too.
    environment = {**os.environ, **QUIET, "PYTHONPATH": HERE}
    words = [["dask-scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show"]]
    words += [["dask-worker", "--nthreads", str(threads), "--no-nanny", "--no-dashboard", "--local-directory", folder,
               f"tcp://127.0.0.1:{port}"]] * workers
    try:
        for line in words:
            processes.append(subprocess.Popen(line, env=environment, start_new_session=True,
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        yield f"tcp://127.0.0.1:{port}"
    finally:
        for process in reversed(processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def cpu_s():
    """What this process, those that it waited for, and all that it has running have used of the CPUs."""
    parents, used = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            words = file.read().rsplit(")", 1)[1].split()
            parents[int(pid)] = int(words[1])
            used[int(pid)] = sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")

    def is_ours(pid):
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return sum(seconds for pid, seconds in used.items() if is_ours(pid))


def run(words, engine=None, before=(), **options):
    environment = {**os.environ, **QUIET}
    if engine:
        environment.update(PYCREW_ENGINE=engine, PYCREW_ENGINE_OPTIONS=json.dumps(options))
    words = [*before, os.path.join("bench", "engines"), *map(str, words)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{words}: {ended.stderr}")
    return [float(line) for line in ended.stdout.split()]


def run_dask(words, address, **options):
    return run(words, "pycrew.engines.dask:cluster", address=address, **options)


def run_mpi(words, ranks, **options):
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    before = ["mpiexec", *root, "--oversubscribe", "-n", str(ranks + 1), sys.executable, MPI]
    return run(words, "pycrew.engines.mpi:comm", before, **options)


def quantiles(values):
    values = sorted(values)
    return values[len(values) // 2], values[int(len(values) * 0.99)]


class Table:
    """By way: a figure a round, and its ratio to the first way's."""

    def __init__(self, title, unit):
        self.title, self.unit, self.rows = title, unit, {}

    def add(self, way, value):
        self.rows.setdefault(way, []).append(value)

    def show(self):
        print(f"\n**{self.title}**\n\n| | {self.unit}, median | lowest | highest | as the first, median | lowest | highest |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        first = next(iter(self.rows.values()))
        for way, values in self.rows.items():
            ratios = [value / base for value, base in zip(values, first)]
            cells = [f"{function(list_):.{digits}f}" for list_, digits in ((values, 2), (ratios, 2))
                     for function in (statistics.median, min, max)]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)


# ---- single calls ----

def dask_singles(client, count):
    found = []
    for i in range(count):
        begin = time.perf_counter_ns()
        client.submit(bench_engines.nothing, i, pure=False).result()
        found.append(time.perf_counter_ns() - begin)
    return found


def single(o):
    import distributed
    typical, tail = Table("single calls, one after the other", "ms"), Table("the same, 99 of 100", "ms")
    with dask(CPUS) as address, distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(CPUS)
        dask_singles(client, 50)
        for _ in range(o.rounds):
            for way, found in (("Dask's client", dask_singles(client, 300)),
                               ("pycrew by Dask", run_dask(["single", 300], address)),
                               ("pycrew by MPI", run_mpi(["single", 300], CPUS))):
                middle, late = quantiles(found)
                typical.add(way, middle / 1e6)
                tail.add(way, late / 1e6)
    typical.show()
    tail.show()


# ---- a batch ----

def just_work(count):
    begin = time.perf_counter()
    work = bench_engines.work
    for i in range(count):
        work(i)
    return time.perf_counter() - begin


def ideal(count):
    """The function alone in as many processes as there are CPUs."""
    with concurrent.futures.ProcessPoolExecutor(CPUS) as pool:
        list(pool.map(just_work, [10] * CPUS))
        begin = time.perf_counter()
        list(pool.map(just_work, [count // CPUS] * CPUS))
        return time.perf_counter() - begin


def batch(o):
    import distributed
    table = Table(f"a batch of {o.records:,} records of some 10 us, {CPUS} CPUs", "s")
    used = Table("the same, CPU time of all processes", "s")
    with dask(CPUS) as flat, dask(1, threads=2) as one:
        for address, workers in (flat, CPUS), (one, 1):
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(workers)
        ways = {"the function alone, a process a CPU": lambda n: ideal(n),
                "pycrew without an engine": lambda n: run(["batch", n])[0],
                "Dask, a worker a CPU": lambda n: run_dask(["batch", n], flat)[0],
                "Dask, a worker with a nested crew": lambda n: run_dask(["batch", n], one, nested=CPUS)[0],
                "MPI, a rank a CPU": lambda n: run_mpi(["batch", n], CPUS)[0],
                "MPI, a rank with a nested crew": lambda n: run_mpi(["batch", n], 1, nested=CPUS)[0]}
        for way in ways.values():
            way(1000)
        for _ in range(o.rounds):
            for name, way in ways.items():
                before = cpu_s()
                table.add(name, way(o.records))
                used.add(name, cpu_s() - before)
    table.show()
    used.show()


# ---- arrays ----

def arrays(o):
    import distributed
    with dask(1) as address:
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(1)
        for size in 1 << 16, 1 << 20, 1 << 24:
            table = Table(f"an array of {size:,} bytes there and back", "ms")
            for _ in range(o.rounds):
                for way, found in (("by Dask", run_dask(["arrays", 20, size], address)),
                                   ("by MPI", run_mpi(["arrays", 20, size], 1)),
                                   ("by a process pool", run(["arrays", 20, size], "pycrew.engines.local:pool", max_workers=1))):
                    table.add(way, quantiles(found)[0] / 1e6)
            table.show()


# ---- the scheduler ----

def scheduler(o):
    """Tasks that do nothing, all sent at once: what bounds them is Dask's scheduler, or here the CPUs that all share."""
    import distributed
    table = Table("Dask's scheduler: tasks that do nothing, 5,000 at once", "tasks a second")
    with dask(CPUS) as address, distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(CPUS)
        pid = client.run_on_scheduler(os.getpid)
        for _ in range(o.rounds):
            before, begin = cpu_of(pid), time.perf_counter()
            client.gather(client.map(bench_engines.nothing, range(5000), pure=False))
            table.add("by the clock", 5000 / (time.perf_counter() - begin))
            table.add("by the scheduler's own CPU time", 5000 / (cpu_of(pid) - before))
    table.show()


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        words = file.read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parts = {"single": single, "batch": batch, "arrays": arrays, "scheduler": scheduler}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="PART")
    o = parser.parse_args()
    print(f"{CPUS} CPUs, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    for part in o.parts or parts:
        parts[part](o)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
