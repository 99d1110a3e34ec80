#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# Engines that are shipped, with the real thing: unchanged programs on processes of this machine, a Dask cluster and
# the ranks of an MPI job find what they find without. What is not installed is skipped, with its package's name.
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *

EXAMPLES = os.path.join(BUILD, "examples")
BRIDGE = [os.path.join(EXAMPLES, "bridge", "bridge")]
STDLIB = [os.path.join(EXAMPLES, "stdlib", "stdlib-stats"), "-n", "12"]
DIGITS = [os.path.join(EXAMPLES, "digits", "digits")]
SOLVE = [os.path.join(EXAMPLES, "solve", "solve"), os.path.join(TOP, "examples", "solve")]
MPI = os.path.join(TOP, "python", "pycrew", "engines", "mpi.py")
# A task that kills its worker twice is given up.
QUIET = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error", "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s"}


def need(module, package, program=None):
    if importlib.util.find_spec(module) is None or (program is not None and shutil.which(program) is None):
        raise Skip(f"{package} is not installed")


def execute(words, engine=None, options=None, **environment):
    given = {"PYCREW_ENGINE": engine, "PYCREW_ENGINE_OPTIONS": options and json.dumps(options), **environment}
    own = {name: value for name, value in {**os.environ, **given}.items() if value is not None}
    process = subprocess.Popen(words, env=own, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return end(process)


def found(ended):
    """What a program found, without what it measured."""
    return [line for line in ended.out.decode().splitlines()
            if "times as fast" not in line and not line.strip().replace(".", "").replace(" ", "").isdigit()]


alone = {}  # how programs end without an engine


def same(words, how):
    """A program finds the same by an engine as without one. how(words) runs it by the engine."""
    there = how(words)
    assert there.code == 0, there
    if words[0] not in alone:
        alone[words[0]] = execute(words)
    equal(found(there), found(alone[words[0]]), " ".join(words))


def jobs(how):
    """The founding example, whose crash is one call's end, the main job and the linear one."""
    lines, expected = found(how(BRIDGE)), found(execute(BRIDGE))
    equal(lines[:2], ["add(3, 5) = 8", "divide(1, 0) raised ZeroDivisionError: integer division or modulo by zero"])
    crash = "crash() lost its worker"
    equal([line for line in lines if not line.startswith(crash)], [line for line in expected if not line.startswith(crash)])
    equal([line.startswith(crash) for line in lines].count(True), 1)
    same(STDLIB, how)
    if importlib.util.find_spec("scipy") is not None and os.path.exists(SOLVE[0]):
        same(SOLVE, how)


def digits(how):
    if importlib.util.find_spec("sklearn") is not None:
        same(DIGITS, how)


# ---- processes of this machine ----

@test
def unchanged_programs_run_by_processes():
    jobs(lambda words: execute(words, "pycrew.engines.local:pool", {"max_workers": 2}))


@test
def the_founding_example_survives_its_crash():
    lines = found(execute(BRIDGE, "pycrew.engines.local:pool"))
    assert lines[-2].startswith("crash() lost its worker"), lines
    equal(lines[-1], "add(20, 22) = 42")


@test
def the_command_has_engines():
    engine = "--engine", "pycrew.engines.local:pool", "--engine-options", '{"max_workers": 2}'
    check(run("call", *engine, "math:hypot", 3, 4), 0, "5.0\n")
    numbers = "".join(f"{i}\n" for i in range(3000))
    check(run("map", *engine, ":echo", give=numbers), 0, numbers)
    check(run("call", *engine, "--stream", "builtins:range", 3), 1, "", "has no streams")
    check(run("call", "--engine", "no_such:thing", "math:hypot", 3, 4), 3, "", "No module named 'no_such'")


# ---- crews on the machines ----

def pool(**options):
    return "--engine", "pycrew.engines.local:pool", "--engine-options", json.dumps({"max_workers": 1, **options})


def processes_of(*engine):
    ended = check(run("map", *engine, "engine_ops:pid_slowly", give="0\n" * 600), 0)
    return len(set(ended.out.split()))


@test
def a_nested_crew_runs_the_parts_of_a_machines_tasks():
    equal(processes_of(*pool()), 1)
    equal(processes_of(*pool(nested=3)), 3)
    numbers = "".join(f"{i}\n" for i in range(3000))
    check(run("map", *pool(nested=2), ":echo", give=numbers), 0, numbers)
    check(run("call", *pool(nested=2), "math:sqrt", -1), 1, "", ["ValueError: math domain error", "On host "])
    check(run("call", *pool(nested=2), "no_such_module:f"), 1, "", "No module named 'no_such_module'")


@test
def a_worker_of_a_nested_crew_that_dies_costs_the_record_that_killed_it():
    check(run("call", *pool(nested=2), ":die"), 4, "", ["lost the task", "killed by signal"])
    numbers = [*range(300), -1, *range(300, 600)]
    ended = run("map", *pool(nested=2), "--retries", 2, "engine_ops:echo_or_die", give="".join(f"{i}\n" for i in numbers))
    check(ended, 1, "".join(f"{i}\n" for i in range(600)), "died")


@test
def a_machine_without_pycrew_says_what_to_install():
    without = {**os.environ, "PYCREW_LIBRARY": "/nowhere/libpycrew.so.0"}
    check(run("call", *pool(nested=2), "math:hypot", 3, 4, env=without), 1, "",
          ["install the Debian package pycrew", "/nowhere/libpycrew.so.0", "On host "])
    check(run("call", *pool(nested=0), "math:hypot", 3, 4), 3, "", "nested is to be a number of workers")


# ---- pycrew map ----

@test
def a_map_by_an_engine_has_progress_errors_and_a_resume():
    words = ["map", *pool(), "--checkpoint", "check", "--checkpoint-every", "1ms", "--errors", "errors", "--output", "out",
             "--progress", "json", "engine_ops:steady", write("in.jsonl", "".join(f"{i}\n" for i in range(3000)))]
    process = start(*words)
    wait_until(lambda: os.path.exists("out") and os.path.getsize("out") > 2000, "some results")
    process.kill()
    err = process.communicate()[1].decode()
    assert 0 < len(read("out").splitlines()) < 2900
    ended = check(run(*words, "--resume"), 1, None, "going on behind")
    assert '"done"' in ended.err and '"done"' in err + ended.err, ended
    good = [i for i in range(3000) if i % 50 != 7]
    equal([int(line) for line in read("out").splitlines()], good)
    errors = [json.loads(line) for line in read("errors").splitlines()]
    equal([error["input"] for error in errors], [i for i in range(3000) if i % 50 == 7])
    equal({(error["type"], error["message"] == f"no good: {error['input']}") for error in errors}, {("ValueError", True)})


# ---- Dask ----

def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Dask:
    def __init__(self):
        need("distributed", "python3-distributed", "dask-scheduler")
        self.port, self.processes = free_port(), []
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self, *words):
        log = open(f"log{len(self.processes)}", "wb")
        process = subprocess.Popen(words, env={**os.environ, **QUIET}, stdout=log, stderr=log, start_new_session=True)
        log.close()
        self.processes.append(process)
        return process

    def start_scheduler(self):
        return self.start("dask-scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show")

    def start_worker(self, name):
        return self.start("dask-worker", "--nthreads", "1", "--no-dashboard", "--local-directory", os.getcwd(),
                          "--name", name, "--death-timeout", "60", self.address)

    def execute(self, words, **options):
        return execute(words, "pycrew.engines.dask:cluster", {"address": self.address, **options}, **QUIET)


@contextlib.contextmanager
def dask(workers=3):
    cluster = Dask()
    try:
        cluster.start_scheduler()
        for number in range(workers):
            cluster.start_worker(f"w{number}")
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def options_of(cluster):
    return "--engine", "pycrew.engines.dask:cluster", "--engine-options", json.dumps({"address": cluster.address})


@test
def unchanged_programs_run_on_a_dask_cluster():
    with dask() as cluster:
        jobs(cluster.execute)
        digits(cluster.execute)
        same(STDLIB, lambda words: cluster.execute(words, nested=2))  # each worker with a crew of its own


@test
def a_lost_dask_worker_loses_no_record_and_a_killed_task_is_one_records_end():
    with dask() as cluster:
        numbers = "".join(f"{i}\n" for i in range(2000))
        process = start("map", *options_of(cluster), ":slow_echo", env={**os.environ, **QUIET})
        process.stdin.write(numbers.encode())
        process.stdin.flush()
        wait_until(lambda: process.stdout.readable() and read_some(process), "the first results")
        os.killpg(cluster.processes[1].pid, signal.SIGKILL)
        ended = end(process)
        equal(ended.code, 0, ended)
        equal(len((process.some + ended.out).splitlines()), 2000)
        check(run("call", *options_of(cluster), ":die", env={**os.environ, **QUIET}), 4, "", "lost the task")


def read_some(process):
    process.some = os.read(process.stdout.fileno(), 1000)
    return True


@test
def a_lost_dask_scheduler_is_an_error_and_works_again_when_it_is_back():
    with dask() as cluster:
        words = start("map", *options_of(cluster), ":slow_echo", env={**os.environ, **QUIET})
        words.stdin.write("".join(f"{i}\n" for i in range(500)).encode())
        words.stdin.flush()
        wait_until(lambda: read_some(words), "the first results")
        os.killpg(cluster.processes[0].pid, signal.SIGKILL)
        cluster.processes[0].wait()
        cluster.start_scheduler()
        cluster.start_worker("later")  # the others end with their scheduler, if they are not quick to find the new one
        words.stdin.write(b"1000\n")
        ended = end(words)
        assert "the engine was lost" in ended.err, ended
        assert ended.out.endswith(b"1000\n"), ended


@test
def without_dask_the_error_names_the_package():
    write("distributed.py", "raise ImportError('it is hidden')\n")
    check(run("call", "--engine", "pycrew.engines.dask:cluster", "math:hypot", 3, 4), 3, "",
          "the Debian package python3-distributed")


# ---- MPI ----

def mpi(words):
    need("mpi4py", "python3-mpi4py", "mpiexec")
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    return execute(["mpiexec", *root, "--oversubscribe", "-n", "4", sys.executable, MPI, *words],
                   "pycrew.engines.mpi:comm")


@test
def unchanged_programs_run_on_the_ranks_of_an_mpi_job():
    need("mpi4py", "python3-mpi4py", "mpiexec")
    same(STDLIB, mpi)
    digits(mpi)
    lines = found(mpi(BRIDGE))  # its crash takes the whole job with it, as MPI has it
    equal(lines[:2], ["add(3, 5) = 8", "divide(1, 0) raised ZeroDivisionError: integer division or modulo by zero"])


@test
def a_programs_exit_status_is_the_mpi_jobs():
    need("mpi4py", "python3-mpi4py", "mpiexec")
    equal(mpi([PYCREW, "call", "math:hypot", "3", "4"]).out, b"5.0\n")
    equal(mpi([PYCREW, "call", "math:sqrt", "-1"]).code, execute([PYCREW, "call", "math:sqrt", "-1"]).code)


@test
def processes_that_mpi_starts_run_calls():
    need("mpi4py", "python3-mpi4py", "mpiexec")
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    ended = execute([PYCREW, "call", "math:hypot", "3", "4"], "pycrew.engines.mpi:pool", {"max_workers": 2}, **environment)
    check(ended, 0, "5.0\n")


@test
def a_program_without_an_mpi_job_is_told_how_to_start():
    need("mpi4py", "python3-mpi4py")
    check(run("call", "--engine", "pycrew.engines.mpi:comm", "math:hypot", 3, 4), 3, "", "mpiexec -n 4 python3")


main()
