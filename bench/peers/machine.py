"""What the machine is, and what of it belongs to a peer: its processes and their memory."""

import os
import platform
import re
import sys
import time


def first_line(path, key):
    try:
        with open(path) as file:
            for line in file:
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return None


def facts():
    return {"cpu": first_line("/proc/cpuinfo", "model name"), "cpus": len(os.sched_getaffinity(0)),
            "memory_kb": int(first_line("/proc/meminfo", "MemTotal").split()[0]), "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()), "system": os_name(),
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "load_at_start": os.getloadavg()}


def os_name():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def loops_of_10us(functions):
    """How often peer_ops.spin loops in ten microseconds: the best of some tries, as the machine can do."""
    sys.path.insert(0, functions)
    import peer_ops
    loops, best = 100_000, 1e9
    for _ in range(20):
        begin = time.perf_counter_ns()
        peer_ops.spin(0, loops)
        best = min(best, time.perf_counter_ns() - begin)
    return max(round(loops * 10_000 / best), 1)


# ---- processes ----

def children_of_all():
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = re.match(r".*\) (\S) (\d+)", file.read(), re.S).groups()
        except OSError:
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(name))
    return children


def descendants(pid):
    children, found, todo = children_of_all(), [], [pid]
    while todo:
        more = children.get(todo.pop(), [])
        found += more
        todo += more
    return found


def is_helper(pid):
    """Python's own process that looks after shared memory: no worker."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            text = file.read()
    except OSError:
        return True
    return b"resource_tracker" in text


def workers_of(pid, generation, apart=None):
    """The children of pid, or their children, and so on; generation 0 is the process itself."""
    children, found = children_of_all(), [pid]
    for _ in range(generation):
        found = [child for parent in found for child in children.get(parent, [])]
    return [worker for worker in found if worker != apart and (generation == 0 or not is_helper(worker))]


def pss_kb(pids):
    total = 0
    for pid in pids:
        total += int((first_line(f"/proc/{pid}/smaps_rollup", "Pss") or "0").split()[0])
    return total
