"""The table of peers: what each is, in which ways it is called, how it is started, what it needs."""

import glob
import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import machine

HERE = pathlib.Path(__file__).resolve().parent
RECORD = str(HERE / "record.json")


class Peer:
    """generation: where in its tree of processes the workers are, None: there is no process to kill."""

    def __init__(self, name, title, ways, generation, most_workers=256, is_called=True):
        self.name, self.title, self.ways, self.generation = name, title, ways, generation
        self.most_workers, self.is_called = most_workers, is_called

    def ways_for(self, workload):
        """Besides "one"."""
        return self.ways

    def missing(self, options):
        """Why it cannot be measured here, or None."""
        return None

    def environment(self, workers):
        return {}

    def workers(self, child):
        return machine.workers_of(child.process.pid, self.generation or 0)


class InC(Peer):
    def __init__(self, *arguments, program, **more):
        super().__init__(*arguments, **more)
        self.program = program

    def missing(self, options):
        self.path = f"{options.build}/bench/peers/{self.program}"
        return None if os.access(self.path, os.X_OK) else f"{self.program} is not built"

    def command(self, workers, cells):
        return [self.path, self.name, str(workers), RECORD, *cells]

    def environment(self, workers):
        return {"BENCH_PYTHON": sys.executable}  # pycrew's own is the one it was built with: make bench gives the same


class Pycrew(InC):
    def ways_for(self, workload):
        """A map is of columns of ints, and arrays are no items of a batch."""
        columns = ("ints", "spin", "skewed", "index")
        kinds = {"map": columns, "batch": ("none", "text", *columns)}
        return [way for way in self.ways if workload.kind in kinds.get(way, (workload.kind,))]


class Interpreters(InC):
    """Built here, for a CPython of 3.12 or later: the one of BENCH_PYTHON312, of the PATH, or of pyenv."""

    def missing(self, options):
        for self.python in self.candidates():
            self.path = str(pathlib.Path(options.build) / "bench/peers/interpreters")
            why = self.build(options)
            if why is None:
                return None
        return "no CPython 3.12 or later with its headers and libpython was found (BENCH_PYTHON312)" \
            if not self.python else why

    def candidates(self):
        own = os.environ.get("BENCH_PYTHON312")
        if own:
            return [own]
        found = [path for minor in (14, 13, 12) if (path := shutil.which(f"python3.{minor}"))]
        root = os.environ.get("PYENV_ROOT")
        if not root and shutil.which("pyenv"):
            root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        versions = [path for minor in (14, 13, 12) for path in glob.glob(f"{root}/versions/3.{minor}.*/bin/python3")]
        return found + (versions if root else []) or [None]

    FACTS = ("import sysconfig as s, sys; g = s.get_config_var; print(sys.version_info >= (3, 12), "
             "g('INCLUDEPY'), g('LIBDIR'), g('LDVERSION'), sep='\\n')")

    def build(self, options):
        if not self.python:
            return "none"
        facts = subprocess.run([self.python, "-c", self.FACTS], capture_output=True, text=True).stdout.split("\n")
        if facts[0] != "True":
            return f"{self.python} is no CPython of 3.12 or later"
        _, include, library, version, _ = facts
        sources = [str(HERE / f"{name}.c") for name in ("interpreters", "threads", "python", "harness", "records")]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        built = subprocess.run([*compiler, "-std=gnu11", "-D_GNU_SOURCE=", "-O2", "-pthread", "-I", include, *sources,
                                "-o", self.path, "-L", library, "-Wl,-rpath," + library, f"-lpython{version}", "-lm"],
                               capture_output=True, text=True)
        return None if built.returncode == 0 else f"it does not compile for {self.python}"

    def environment(self, workers):
        return {"BENCH_PYTHON": self.python}


class InPython(Peer):
    def __init__(self, *arguments, module=None, package=None, **more):
        super().__init__(*arguments, **more)
        self.module, self.package = module, package

    def missing(self, options):
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"no {self.module} (Debian: {self.package})"
        return None

    def command(self, workers, cells):
        return [sys.executable, str(HERE / "harness.py"), self.name, str(workers), RECORD, *cells]


class Mpi(InPython):
    """mpirun starts all; rank 0 is the host."""

    def missing(self, options):
        return super().missing(options) or (None if shutil.which("mpirun") else "no mpirun (Debian: openmpi-bin)")

    def command(self, workers, cells):
        python, script, *rest = super().command(workers, cells)
        return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(workers + 1), python, "-m",
                "mpi4py.futures", script, *rest]

    def environment(self, workers):
        return {"BENCH_BEGIN_NS": str(time.monotonic_ns())}

    def workers(self, child):
        return machine.workers_of(child.process.pid, 1, apart=child.hello["pid"])


class Http(InC):
    """server: a command line with {socket} and {workers}; connections: for each worker."""

    def __init__(self, *arguments, server, connections, version, package, **more):
        super().__init__(*arguments, program="http", **more)
        self.server, self.connections, self.version, self.package = server, connections, version, package

    def missing(self, options):
        program = self.server.split()[0]
        if shutil.which(program) is None:
            return f"no {program} (Debian: {self.package})"
        self.scratch = options.scratch
        self.running = subprocess.run(self.version, shell=True, capture_output=True, text=True).stdout.strip()
        return super().missing(options) or (None if self.running else f"{self.version} says nothing")

    def command(self, workers, cells):
        return [self.path, "http", str(workers), RECORD, *cells]

    def environment(self, workers):
        socket = tempfile.mktemp(prefix="socket-", dir=self.scratch)
        return {"BENCH_SOCKET": socket, "BENCH_SERVER": "exec " + self.server.format(socket=socket, workers=workers),
                "BENCH_CONNECTIONS": str(self.connections), "BENCH_SERVER_VERSION": self.running}


# A way's name is the harness's; the last one is what brings all workers to life before their memory is measured.
# Those that take many seconds to start a few workers are not asked for 256.
PEERS = [
    Pycrew("pycrew", "pycrew", ["pipelined", "map", "batch"], 2, program="pycrew"),
    InC("inprocess", "embedded, one thread", ["loop"], None, most_workers=1, program="embedded"),
    InC("gil", "embedded, threads that share the GIL", ["threads"], None, program="embedded"),
    Interpreters("interpreters", "own-GIL subinterpreters", ["threads"], None, program="interpreters"),
    InC("socket", "C child over a Unix socket", ["chunks"], 1, program="socket"),
    InPython("pipe", "multiprocessing.Pipe by hand", ["chunks"], 1),
    InPython("pool", "multiprocessing.Pool", ["imap", "map"], 1),
    InPython("executor", "ProcessPoolExecutor", ["map"], 1),
    InPython("loky", "loky", ["map"], 1, 16, module="joblib", package="python3-joblib"),
    InPython("joblib", "joblib.Parallel", ["parallel"], 1, 16, module="joblib", package="python3-joblib"),
    Mpi("mpi", "mpi4py.futures", ["starmap"], 1, 16, module="mpi4py", package="python3-mpi4py"),
    InPython("dask", "dask.distributed", ["map", "chunks"], 1, 16, module="distributed",
             package="python3-distributed"),
    Http("uwsgi", "uWSGI over HTTP", ["connections"], 2, package="uwsgi-core uwsgi-plugin-python3", connections=1,
         version="uwsgi --version",
         server="uwsgi --plugin python3 --master --die-on-term --http11-socket {socket} --listen 100 --need-app "
                "--processes {workers} --module peer_wsgi --disable-logging --buffer-size 8192 --forkbomb-delay 0"),
    Http("gunicorn", "gunicorn (sync) over HTTP", ["connections"], 2, package="gunicorn", connections=4,
         version="gunicorn --version",
         server="gunicorn --bind unix:{socket} --workers {workers} --worker-class sync "
                "--log-level critical peer_wsgi:application"),
    InPython("plain", "plain processes in a loop", ["loop"], None, is_called=False),
]


def find_peers(options):
    """Those to be measured, and why others are not."""
    asked = options.peers.split(",") if options.peers else [peer.name for peer in PEERS]
    unknown = set(asked) - {peer.name for peer in PEERS}
    if unknown:
        sys.exit(f"no peer is called {', '.join(unknown)}")
    found, missing = [], {}
    for peer in PEERS:
        if peer.name in asked:
            why = peer.missing(options)
            if why:
                missing[peer.name] = why
            else:
                found.append(peer)
    return found, missing
