#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew doctor: what it finds, and that it finds what is wrong.
import json
import os
import resource
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *

SYSTEM = ["pidfd", "open files", "address space", "shared memory", "cgroup memory", "cgroup processes"]


def doctor(*words, **options):
    """Exit code and the checks by name."""
    ended = run("doctor", "--json", *words, **options)
    lines = [json.loads(line) for line in ended.lines()]
    for line in lines:
        equal(sorted(line), ["check", "fix", "state", "text"])
        assert line["state"] in ("ok", "warn", "FAIL") and (line["state"] == "ok" or line["fix"]), line
    failed = any(line["state"] == "FAIL" for line in lines)
    equal(ended.code, 1 if failed else 0, ended)
    return {line["check"]: line for line in lines}


def state(found, check, expected, fix=""):
    equal(found[check]["state"], expected, found[check])
    assert fix in (found[check]["fix"] or ""), found[check]


def limited(kind, soft):
    return lambda: resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


@test
def each_check_says_a_line():
    ended = run("doctor", "-j", 1, ":echo")
    names = SYSTEM + ["start", "python", "import", "BLAS threads", "one call"]
    equal([line[6:].split(": ")[0] for line in ended.lines()], names, ended)
    for line in ended.lines():
        assert line.startswith("ok    ") or "; fix: " in line, line
    assert "cli_ops:echo(value=None), after 0." in ended.out.decode(), ended


@test
def json_has_the_same_checks():
    found = doctor("-j", 1, "math:hypot")
    equal(list(found), SYSTEM + ["start", "python", "import", "BLAS threads", "one call"])
    state(found, "start", "ok")
    state(found, "one call", "ok")
    assert f"{sys.version_info.major}." in found["python"]["text"], found
    equal(list(doctor("-j", 1)), SYSTEM + ["start", "python", "BLAS threads", "one call"])


@test
def too_few_open_files_fail():
    found = doctor("-j", 4, preexec_fn=limited(resource.RLIMIT_NOFILE, 50))
    state(found, "open files", "FAIL", "ulimit -n 1024")
    state(doctor("-j", 1, preexec_fn=limited(resource.RLIMIT_NOFILE, 80)), "open files", "warn", "ulimit -n 1024")
    state(doctor("-j", 1, preexec_fn=limited(resource.RLIMIT_NOFILE, 200)), "open files", "ok")


@test
def a_limit_of_address_space_is_warned_of():
    found = doctor("-j", 1, preexec_fn=limited(resource.RLIMIT_AS, 64 << 30))
    state(found, "address space", "warn", "ulimit -v unlimited")
    assert "65536 MiB" in found["address space"]["text"], found


@test
def a_module_that_does_not_import_fails():
    found = doctor("-j", 1, "no_such_module:f")
    state(found, "import", "FAIL", "--path DIR")
    assert "No module named 'no_such_module'" in found["import"]["text"], found
    write("broken.py", "1 / 0\n")
    found = doctor("-j", 1, "broken:f")
    state(found, "import", "FAIL", "python3 -c 'import MODULE'")
    assert "ZeroDivisionError" in found["import"]["text"], found
    state(found, "one call", "ok")


@test
def a_function_that_is_none_fails():
    state(doctor("-j", 1, ":no_such"), "import", "FAIL")
    found = doctor("-j", 1, "cli_ops:prepared")
    state(found, "import", "FAIL")
    assert "cannot be called" in found["import"]["text"], found


@test
def a_slow_import_is_warned_of():
    write("slow_one.py", "import time\ntime.sleep(2.1)\ndef f(): pass\n")
    state(doctor("-j", 1, "slow_one:f"), "import", "warn", "--preload")


@test
def workers_that_cannot_start_fail():
    found = doctor("-j", 1, "--preload", "no_such_module")
    equal(list(found), SYSTEM + ["start"])
    state(found, "start", "FAIL", "--path DIR")
    found = doctor("-j", 1, env={**os.environ, "PYCREW_WORKER": "/no/such/worker"})
    state(found, "start", "FAIL", "PYCREW_WORKER")
    state(doctor("-j", 1, "--init", "cli_ops:fail"), "start", "FAIL")


@test
def more_memory_than_there_is_is_warned_of():
    found = doctor("-j", 1, "--memory", "900T")
    state(found, "shared memory", "warn", "--shm-size")


def in_cgroup(memory, used, pids, *words):
    """In a mount namespace whose cgroup files say so; None: none can be made here."""
    script = f"""
        mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory /sys/fs/cgroup/pids || exit 99
        for folder in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/pids; do
            for name in memory.max memory.limit_in_bytes; do echo {memory} >$folder/$name; done
            for name in memory.current memory.usage_in_bytes; do echo {used} >$folder/$name; done
            echo {pids} >$folder/pids.max; echo 10 >$folder/pids.current
        done
        exec "$@" """
    unshare = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", script, "sh"]
    try:
        ended = subprocess.run(unshare + command("doctor", "--json", *words), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
    except FileNotFoundError:
        return None
    if ended.returncode not in (0, 1) or not ended.stdout:
        return None
    return {line["check"]: line for line in map(json.loads, ended.stdout.splitlines())}


@test
def what_a_cgroup_leaves_is_looked_at():
    found = in_cgroup("max", 0, "max", "-j", 2)
    if found is None:
        print("# no mount namespace here: nothing was looked at")
        return
    state(found, "cgroup memory", "ok")
    state(found, "cgroup processes", "ok")
    found = in_cgroup(1 << 30, (1 << 30) - (100 << 20), 27, "-j", 2)
    state(found, "cgroup memory", "warn", "memory.max")
    assert found["cgroup memory"]["text"].startswith("100 MiB are left of 1024"), found
    state(found, "cgroup processes", "warn", "pids.max")
    found = in_cgroup(1 << 30, (1 << 30) - (20 << 20), 12, "-j", 2)
    state(found, "cgroup memory", "FAIL", "fewer workers")
    state(found, "cgroup processes", "FAIL", "fewer workers")


@test
def threads_times_workers_beyond_the_cpus_are_warned_of():
    write("threads.py", "import ctypes\ntry:\n    ctypes.CDLL('libgomp.so.1')\nexcept OSError:\n    pass\ndef f(): pass\n")
    found = doctor("-j", 1, "threads:f")
    if "libgomp" not in found["BLAS threads"]["text"]:
        return  # not on this machine
    state(found, "BLAS threads", "ok")
    many = os.cpu_count() + 1
    found = doctor("-j", 1, "--env", f"OMP_NUM_THREADS={many}", "threads:f")
    state(found, "BLAS threads", "warn", "OMP_NUM_THREADS=1")
    assert found["BLAS threads"]["text"].startswith(f"{many} of libgomp"), found


@test
def wrong_usage_is_refused():
    check(run("doctor", "a:b", "c:d"), 2, "", "one MODULE:FUNCTION at a time (pycrew doctor --help")
    check(run("doctor", "--star"), 2, "", "unknown option --star")
    ended = check(run("doctor", "--help"), 0)
    assert "--json" in ended.out.decode() and "--preload" in ended.out.decode(), ended


if __name__ == "__main__":
    main()
