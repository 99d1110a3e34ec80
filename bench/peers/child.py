"""A peer as a child process: its lines, with a limit of time on each, and its workers killed if that is asked for."""

import ctypes
import json
import os
import queue
import random
import re
import signal
import subprocess
import tempfile
import threading
import time

import machine

KILL_EACH_S = 0.1
CLOSE_S = 3  # what a peer has to end by itself
PR_SET_CHILD_SUBREAPER = 36


class Hung(Exception):
    pass


class Child:
    """Its processes are gone when the with statement ends, whatever they were doing."""

    def __init__(self, command, options, environment=()):
        path = os.pathsep.join([options.functions, os.path.dirname(os.path.abspath(__file__))])
        everywhere = {"PYTHONPATH": path, "BENCH_FUNCTIONS": options.functions, "PYTHONDONTWRITEBYTECODE": "1",
                      "TMPDIR": options.scratch, "JOBLIB_TEMP_FOLDER": options.scratch,
                      "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True, start_new_session=True,
                                        env={**os.environ, **everywhere, **dict(environment)})
        self.is_hung = False
        self.arrived = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.arrived.put(line)
        self.arrived.put(None)

    def lines(self, limit):
        """Its JSON objects; Hung if there is none for so many seconds. What libraries print is no JSON."""
        while True:
            try:
                line = self.arrived.get(timeout=limit)
            except queue.Empty:
                self.is_hung = True
                raise Hung from None
            if line is None:
                return
            if line.startswith("{"):
                yield json.loads(line)

    def last_error(self):
        """Of one that has closed its stdout."""
        try:
            self.process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            pass
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if re.search("[a-z]", line)]
        return lines[-1][:300] if lines else f"ended with status {self.process.poll()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
            self.process.wait(timeout=0 if self.is_hung else CLOSE_S)
        except (OSError, subprocess.TimeoutExpired):
            pass
        kill_all()
        self.process.wait()
        self.errors.close()


def adopt_orphans():
    """What a child leaves behind becomes a child of this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_all():
    """Until nothing is left: one that is killed may just have started another. Python's resource trackers end by
    themselves when the others have, and remove what those left in shared memory."""
    end = time.monotonic() + CLOSE_S
    while pids := machine.descendants(os.getpid()):
        for pid in pids:
            if time.monotonic() < end and machine.is_helper(pid):
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)


class Killer:
    """Kills a worker at random now and then, between on() and off()."""

    def __init__(self, peer, child):
        self.peer, self.child, self.kills, self.stop = peer, child, 0, None

    def on(self):
        self.kills, self.stop = 0, threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while not self.stop.wait(KILL_EACH_S):
            workers = self.peer.workers(self.child)
            try:
                if workers:
                    os.kill(random.choice(workers), signal.SIGKILL)
                    self.kills += 1
            except ProcessLookupError:
                pass

    def off(self):
        if self.stop:
            self.stop.set()
            self.thread.join()
        self.stop = None
        return self.kills


def run_cells(peer, workers, cells, options, kill=False):
    """Yields the peer's lines. A cell in which it died is said to be so, and those after it get another child;
    after one in which it hung, or gave a wrong result, it gets no other chance."""
    rest = list(cells)
    while rest:
        done = yield from run_child(peer, workers, rest, options, kill)
        rest = rest[done:]


def run_child(peer, workers, cells, options, kill):
    environment = {**peer.environment(workers), **({"BENCH_TOLERANT": "1"} if kill else {})}
    done, name, way = 0, cells[0].split(",")[0], cells[0].split(",")[4]
    limit = options.limit + 6 * max(float(cell.split(",")[5]) for cell in cells)
    with Child(peer.command(workers, cells), options, environment) as child:
        killer = Killer(peer, child)
        try:
            for line in child.lines(limit):
                if "hello" in line:
                    child.hello = line["hello"]
                if "begin" in line:
                    name, way = line["begin"], line["way"]
                    if kill:
                        killer.on()
                elif "cell" in line:
                    done += 1
                    if kill:
                        line["kills"] = killer.off()
                    yield {"way": way, **line}
                    if "wrong" in line or (done == len(cells) and name != "memory"):
                        return len(cells)
                elif "memory" in line:
                    pids = peer.workers(child)
                    yield {"memory": machine.pss_kb(pids) / workers, "processes": len(pids)}
                    return done
                else:
                    yield line
        except Hung:
            yield {"cell": name, "way": way, "hung": True, "kills": killer.off()}
            return len(cells)
        finally:
            killer.off()
        if done < len(cells):
            yield {"cell": name, "way": way, "failed": child.last_error(), "kills": killer.kills}
            done += 1
    return done
