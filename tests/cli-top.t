#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew top: what it shows of a crew, and what it bears.
#
# The crew is that of a `pycrew map` whose function waits for a file; or a copy of its shared memory in a
# memfd of this very process, which then is a host of any kind that is wanted.
import fcntl
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *
from terminal import Terminal

HOST_PID = 8 + 24 + 20  # where it stands in the header
SEGMENT = re.compile(r"(/memfd:pycrew |.*/pycrew\.\d+\.\d+\.\d+)")


def top(*words, **options):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return end(subprocess.Popen([PYCREW, "top", *map(str, words)], **options))


def look(pid, *words):
    ended = check(top("--json", "--interval", "0.02", "--once", *words, pid), 0)
    equal(len(ended.lines()), 1, ended)
    return json.loads(ended.out)


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def read_start(path):
    with open(path, "rb") as file:
        return file.read(8)


class Host:
    """A map of records that wait until the file `go` is there."""

    def __init__(self, function="top_ops:hold", workers=2, records=6, line=None):
        self.go = os.path.abspath("go")
        write("in.txt", f"{line or self.go}\n" * records)
        self.process = start("map", "-j", workers, "--memory", "32M", "-i", "lines", function, "in.txt",
                             stdin=subprocess.DEVNULL)
        self.pid = self.process.pid

    def __enter__(self):
        wait_until(lambda: self.segment() is not None, "the crew to be opened")
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def segment(self):
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                path = f"/proc/{self.pid}/fd/{name}"
                if SEGMENT.match(os.readlink(path)) and any(read_start(path)):
                    return path
            except OSError:
                pass
        return None

    def await_look(self, condition, what):
        found = []

        def looked():
            found[:] = [look(self.pid)]
            return condition(found[0])

        wait_until(looked, what)
        return found[0]

    def await_busy(self):
        return self.await_look(lambda crew: crew["busy"] == 2, "both workers to be busy")

    def finish(self):
        write(self.go, "")
        return check(end(self.process), 0)


class Copy:
    """A crew of this process: a copy of another's shared memory."""

    def __init__(self, path, layout=0, version=None):
        self.fd = os.memfd_create("pycrew", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(path, "rb") as file:
            self.fixed = bytearray(file.read())
        self.fixed[HOST_PID:HOST_PID + 4] = struct.pack("I", os.getpid())
        if version is not None:
            self.fixed[8:32] = version.ljust(24, b"\0")
        self.fixed[0] ^= layout
        self.write(self.fixed)

    def write(self, data):
        os.ftruncate(self.fd, len(data))
        os.pwrite(self.fd, data, 0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.fd)


@test
def json_has_the_workers_with_what_they_run_and_what_waits():
    with Host() as host:
        crew = host.await_busy()
        equal((crew["pid"], crew["crew"], crew["crews"], crew["workers"]), (host.pid, 1, 1, 2))
        assert "pycrew map " in crew["command"] and " -j 2 " in crew["command"], crew
        assert crew["in_flight"] > 2 and crew["queued"] == crew["in_flight"] - 2, crew
        assert crew["waiting"]["function"] == "top_ops:hold" and crew["waiting"]["for_s"] > 0, crew
        assert 0 < crew["memory_used"] <= crew["memory_max"] and crew["memory_resident"] > 0, crew
        assert crew["worker"][crew["oldest"]]["for_s"] == max(w["for_s"] for w in crew["worker"]), crew
        for number, worker in enumerate(crew["worker"]):
            equal([worker[name] for name in ("worker", "state", "function", "calls_held", "calls", "deaths")],
                  [number, "busy", "top_ops:hold", 1, 0, 0], worker)
            assert worker["rss"] > 1 << 20 and 0 < worker["busy"] <= 1, worker
            with open(f"/proc/{worker['pid']}/environ", "rb") as file:
                assert f"PYCREW_MARK=00000{number}-".encode() in file.read(), worker
        host.finish()


@test
def the_age_of_a_call_grows_by_the_time_between_two_looks():
    with Host(records=1) as host:
        host.await_look(lambda crew: crew["busy"] == 1, "the worker to be busy")
        first, begun = look(host.pid), time.monotonic()
        time.sleep(0.3)
        second, spent = look(host.pid), time.monotonic() - begun
        grown = second["worker"][first["oldest"]]["for_s"] - first["worker"][first["oldest"]]["for_s"]
        assert 0.3 <= grown <= spent + 0.3, (grown, spent)


@test
def once_is_a_table():
    with Host() as host:
        host.await_busy()
        lines = check(top("--once", host.pid), 0).lines()
        assert lines[0].startswith("pycrew ") and f"PID {host.pid}: " in lines[0], lines
        equal(lines[1], "Workers  2: 2 busy; 0 deaths")
        heads = [line.split() for line in lines if line.startswith(" NR")]
        equal(heads, [["NR", "PID", "STATE", "FOR", "CALLS/S", "BUSY", "RSS", "DIED", "FUNCTION"]])
        rows = [line.split() for line in lines[-2:]]
        equal([[row[0], row[2], *row[8:]] for row in rows],
              [[str(n), "busy", "top_ops:hold", "(batch)"] for n in range(2)], lines)


@test
def without_a_terminal_it_is_once():
    with Host() as host:
        crew = host.await_busy()
        equal(check(top(host.pid), 0).lines()[1], "Workers  2: 2 busy; 0 deaths", crew)


@test
def a_killed_worker_is_counted_and_replaced():
    with Host() as host:
        crew = host.await_busy()
        victim = crew["worker"][1]["pid"]
        os.kill(victim, signal.SIGKILL)
        crew = host.await_look(lambda crew: crew["deaths"] == 1 and crew["busy"] == 2, "the next worker")
        equal([worker["deaths"] for worker in crew["worker"]], [0, 1])
        equal(crew["worker"][1]["incarnation"], 2)
        assert crew["worker"][1]["pid"] != victim, crew


@test
def a_worker_that_cannot_be_forked_again_is_backing_off():
    with Host() as host:
        crew = host.await_busy()
        zygote = parent_of(crew["worker"][0]["pid"])
        os.kill(zygote, signal.SIGSTOP)  # nobody forks the next
        os.kill(crew["worker"][1]["pid"], signal.SIGKILL)
        crew = host.await_look(lambda crew: crew["worker"][1]["state"] != "busy", "the worker to be gone")
        os.kill(zygote, signal.SIGCONT)
        assert crew["worker"][1]["state"] in ("backing off", "starting"), crew
        equal((crew["worker"][1]["pid"], crew["worker"][1]["rss"]), (None, None), crew)
        equal(crew["worker"][0]["state"], "busy")


@test
def rates_and_latency_are_of_what_ended():
    with Host("top_ops:doze", records=400, line="0.02") as host:
        host.await_look(lambda crew: crew["latency"]["run"]["count"] > 5, "calls to end")
        crew = json.loads(check(top("--json", "--once", "--interval", "0.5", host.pid), 0).out)
        assert 5 < crew["calls_per_s"] < 110, crew
        assert 0.5 <= crew["interval_s"] < 5, crew
        assert crew["latency_recent"]["run"]["count"] <= crew["latency"]["run"]["count"], crew
        run = crew["latency_recent"]["run"]
        assert run["count"] > 0 and 0.02 <= run["p50_s"] * 9 / 8 and run["p50_s"] <= run["max_s"], crew
        assert all(worker["busy"] > 0.3 for worker in crew["worker"]), crew


@test
def idle_workers_sleep_and_have_no_call():
    with Host(records=1) as host:
        crew = host.await_look(lambda crew: crew["busy"] == 1 and crew["asleep"] == 1, "one to run, one to sleep")
        idle = next(worker for worker in crew["worker"] if worker["state"] == "idle")
        equal((idle["function"], idle["for_s"], idle["calls_held"], idle["asleep"]), (None, None, 0, True))
        equal(crew["waiting"]["function"], None)


@test
def interval_gives_an_object_a_line_until_the_host_ends():
    with Host() as host:
        host.await_busy()
        process = subprocess.Popen([PYCREW, "top", "--json", "--interval", "0.05", str(host.pid)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        equal([line["interval_s"] is None for line in lines], [True, False, False])
        host.process.kill()
        ended = check(end(process), 0, err=f"process {host.pid} has ended")
        assert all(json.loads(line)["pid"] == host.pid for line in ended.lines()), ended


@test
def a_closed_reader_is_exit_141():
    with Host() as host:
        host.await_busy()
        process = subprocess.Popen([PYCREW, "top", "--json", "--interval", "0.02", str(host.pid)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        check(end(process), 141)


@test
def the_stack_of_the_oldest_call_is_shown_and_the_call_goes_on():
    with Host() as host:
        host.await_busy()
        text = check(top("--once", "--stack", host.pid), 0).out.decode()
        assert "Stack (most recent call first):" in text and '"' + os.path.join(OPS, "top_ops.py") in text, text
        assert re.search(r"line \d+ in deep\n.*line \d+ in hold\n", text), text
        crew = look(host.pid, "--stack")
        assert " in deep\n" in crew["stack"] and crew["stack_problem"] is None, crew
        host.finish()


@test
def a_worker_without_a_handler_is_not_asked_and_lives():
    with Host("top_ops:hold_deaf", records=1) as host:
        wait_until(lambda: os.path.exists(host.go + ".deaf"), "the handler to be gone")
        crew = look(host.pid, "--stack")
        equal(crew["stack"], None)
        assert "has no handler" in crew["stack_problem"], crew
        assert "There is no stack: it has no handler" in top("--once", "--stack", host.pid).out.decode()
        equal(look(host.pid)["deaths"], 0)
        host.finish()


@test
def a_stopped_worker_does_not_hold_it_up():
    with Host(records=1) as host:
        crew = host.await_look(lambda crew: crew["busy"] == 1, "the worker to be busy")
        pid = crew["worker"][crew["oldest"]]["pid"]
        os.kill(pid, signal.SIGSTOP)
        crew = look(host.pid, "--stack")
        os.kill(pid, signal.SIGCONT)
        assert crew["stack"] is None and "did not answer within a second" in crew["stack_problem"], crew


@test
def a_process_that_is_not_there_or_has_no_crew_is_named():
    check(top("--once", 2 ** 22 + 1), 1, b"", "there is no process 4194305")
    check(top("--json", os.getpid()), 1, b"", f"process {os.getpid()} has no crew")
    check(top("--once", "x"), 2, b"", "PID is a process's number")
    check(top("--once", "0"), 2, b"", "PID is a process's number")
    check(top("--once", 1, 2), 2, b"", "one PID at a time")


@test
def another_users_process_is_said_to_be():
    if os.getuid() != 0:
        raise Skip("needs root, to be somebody else")
    ended = subprocess.run([PYCREW, "top", "--once", str(os.getpid())], user=65534, group=65534, extra_groups=[],
                           cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
    if b"Permission denied" in ended.stderr or ended.returncode in (126, 127):
        raise Skip("this build is not open to other users")
    equal(ended.returncode, 1, ended)
    assert b"cannot be looked into: it is another user's" in ended.stderr, ended


@test
def a_crew_of_another_layout_is_refused_with_both_versions():
    version = subprocess.run([PYCREW, "--version"], stdout=subprocess.PIPE).stdout.decode().split()[1]
    with Host() as host, Copy(host.segment(), layout=1, version=b"9.8.7"):
        ended = check(top("--once", os.getpid()), 1, b"", [f"crew of pycrew 9.8.7 ", f"this is pycrew {version} "])
        layouts = re.findall("layout ([0-9a-f]{16})", ended.err)
        assert len(layouts) == 2 and layouts[0] != layouts[1], ended
    with Host() as host, Copy(host.segment(), layout=1, version=b"\1\2"):
        check(top("--once", os.getpid()), 1, b"", "crew of pycrew of an unknown version ")


@test
def several_crews_are_listed_and_one_can_be_chosen():
    with Host() as host:
        host.await_busy()
        with Copy(host.segment()), Copy(host.segment()):
            ended = check(top("--once", os.getpid()), 2, b"", "there are 2 crews; choose one: pycrew top PID, and --crew N")
            rows = [line.split()[:4] for line in ended.err.splitlines()[2:]]
            equal([row[:3] for row in rows], [[str(os.getpid()), "1", "2"], [str(os.getpid()), "2", "2"]], ended)
            for number in (1, 2):
                crew = look(os.getpid(), "--crew", number)
                equal((crew["crew"], crew["crews"], crew["busy"]), (number, 2, 2))
            assert "crew 2 of 2: " in top("--once", "--crew", 2, os.getpid()).lines()[0]
            check(top("--once", "--crew", 3, os.getpid()), 2, b"", "--crew 3: there are 2")


def alone(script):
    """In a PID namespace, where no other process is seen."""
    ended = subprocess.run(["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", script],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
    if b"unshare" in ended.stderr:
        raise Skip("no namespaces here: " + ended.stderr.decode())
    return Ended(ended.returncode, ended.stdout, ended.stderr.decode())


@test
def without_a_pid_it_is_the_only_crew_there_is():
    check(alone(f"exec {PYCREW} top --once"), 1, b"", "no process of yours has a crew")
    ended = alone(f"""{PYCREW} call --path {OPS} top_ops:hold '"go"' >/dev/null & host=$!
        until {PYCREW} top --json >out 2>/dev/null && grep -q '"busy": 1' out; do kill -0 $host || exit 9; done
        cat out; echo >go; wait $host""")
    crew = json.loads(check(ended, 0).out)
    equal(crew["worker"][0]["function"], "top_ops:hold")


@test
def looking_writes_nothing():
    with Host() as host, Copy(host.segment()) as copy:
        fcntl.fcntl(copy.fd, 1033, 8 | 4 | 2)  # F_ADD_SEALS: write, grow, shrink
        look(os.getpid(), "--stack")
        equal(os.pread(copy.fd, len(copy.fixed), 0) == bytes(copy.fixed), True)


@test
def a_worker_of_somebody_else_is_neither_measured_nor_signalled():
    with Host() as host:
        host.await_busy()
        with Copy(host.segment()):
            crew = look(os.getpid(), "--stack")
            equal([worker["rss"] for worker in crew["worker"]], [None, None])
            equal((crew["stack"], crew["stack_problem"]), (None, "the worker has ended"))
        equal(look(host.pid)["deaths"], 0)


@test
def a_file_that_is_cut_is_no_crew_and_no_crash():
    with Host() as host, Copy(host.segment()) as copy:
        for size in (0, 100, 4096, len(copy.fixed) // 2):
            os.ftruncate(copy.fd, size)
            assert top("--once", os.getpid()).code == 1
        copy.write(copy.fixed)
        process = subprocess.Popen([PYCREW, "top", "--json", "--interval", "0.01", str(os.getpid())],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        os.ftruncate(copy.fd, 4096)
        check(end(process), 1, err="has been written over")


def damaged(fixed, random):
    """The memory with some words of any value, more of them in header and records."""
    data = bytearray(fixed)
    for _ in range(random.choice([1, 20, 2000])):
        at = random.randrange(random.choice([512, 8192, len(data) - 8]))
        data[at:at + 8] = random.choice([random.randbytes(8), b"\xff" * 8, bytes(8), struct.pack("q", 1 << random.randrange(63))])
    if random.random() < 0.8:  # or it would be damaged for sure
        data[:8 + 24 + 40] = fixed[:8 + 24 + 40]
    return data


@test
def a_scribbled_segment_is_shown_or_refused():
    seed = int(os.environ.get("CLI_TOP_SEED", 1))
    codes = set()
    with Host() as host:
        host.await_busy()
        with Copy(host.segment()) as copy:
            for number in range(int(os.environ.get("CLI_TOP_ROUNDS", 25))):
                copy.write(damaged(copy.fixed, random.Random(seed * 1000 + number)))
                ended = top("--json", "--stack", "--interval", "0.001", "--once", os.getpid())
                assert ended.code in (0, 1) and "ERROR" not in ended.err, (number, ended)
                codes.add(ended.code)
                if ended.code == 0:
                    json.loads(ended.out)
    assert 0 in codes, codes


@test
def scribbling_meanwhile_neither_ends_nor_hangs_it():
    with Host() as host:
        host.await_busy()
        with Copy(host.segment()) as copy:
            stop = threading.Event()

            def scribble():
                choice = random.Random(7)
                while not stop.is_set():
                    at = choice.randrange(72, len(copy.fixed) - 8)
                    os.pwrite(copy.fd, choice.randbytes(8), at)
                    os.pwrite(copy.fd, bytes(copy.fixed[:72]), 0)

            thread = threading.Thread(target=scribble)
            thread.start()
            process = subprocess.Popen([PYCREW, "top", "--json", "--interval", "0.005", str(os.getpid())],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            lines = [json.loads(process.stdout.readline()) for _ in range(60)]
            stop.set()
            thread.join()
            equal({line["workers"] for line in lines}, {2})
        check(end(process), 0, err="has closed the crew")


def screen(pid, *words, columns=80):
    terminal = Terminal([PYCREW, "top", pid, *words], columns=columns)
    terminal.wait_for(lambda lines: "q quit" in lines[-1] or "without ncurses" in "".join(lines), "the screen")
    if "q quit" not in terminal.screen.lines()[-1]:
        terminal.end()
        raise Skip("this pycrew was built without ncurses")
    return terminal


@test
def the_screen_shows_it_until_the_host_ends():
    with Host() as host:
        host.await_busy()
        terminal = screen(host.pid, "--interval", "0.1")
        lines = terminal.screen.lines()
        assert lines[0].startswith("pycrew ") and f"PID {host.pid}: " in lines[0], lines
        equal(lines[1], "Workers  2: 2 busy; 0 deaths")
        rows = [line for line in lines if "top_ops:hold (batch)" in line and " busy " in line]
        equal(len(rows), 2, lines)
        head = next(number for number, line in enumerate(lines) if line.startswith(" NR"))
        assert all(looks["reverse"] for _, looks in terminal.screen.cells[head]), lines
        write(host.go, "")
        terminal.wait_for(lambda lines: f"process {host.pid} has ended" in "\n".join(lines), "the host's end")
        equal(terminal.end(), 0)


@test
def q_ends_the_screen_and_gives_the_terminal_back():
    with Host() as host:
        host.await_busy()
        terminal = screen(host.pid)
        terminal.send("q")
        equal(terminal.end(), 0)
        for sequence in (b"\x1b[?1049l", b"\x1b[?25h"):  # the other screen, the cursor
            assert sequence in terminal.output[-150:], terminal.output[-150:]


@test
def the_screen_shows_a_stack_and_comes_back():
    with Host() as host:
        host.await_busy()
        terminal = screen(host.pid, columns=400)  # the paths of a stack may be long
        terminal.wait_for("q quit   s stack of the oldest")
        terminal.send("s")
        terminal.wait_for("most recent call first")
        terminal.wait_for(" in deep")
        assert not any(line.startswith(" NR") for line in terminal.screen.lines()), terminal.screen.text()
        terminal.send(" ")
        terminal.wait_for(lambda lines: any(line.startswith(" NR") for line in lines), "the table")
        terminal.send("j")
        terminal.wait_for("s stack of the chosen")
        terminal.send("q")
        equal(terminal.end(), 0)


@test
def the_screen_sorts_by_a_key():
    with Host(workers=3) as host:
        crew = host.await_look(lambda crew: crew["busy"] == 3, "three to be busy")
        os.kill(crew["worker"][2]["pid"], signal.SIGKILL)
        host.await_look(lambda crew: crew["deaths"] == 1, "the death")
        terminal = screen(host.pid, "--interval", "0.1")

        def numbers(lines):
            return [int(line.split()[0]) for line in lines if re.match(r" +\d+ +[\d-]+ ", line)]

        terminal.wait_for(lambda lines: numbers(lines) == [0, 1, 2], "workers by number")
        terminal.send("d")
        terminal.wait_for(lambda lines: numbers(lines) == [2, 0, 1], "workers by deaths")
        terminal.send("n")
        terminal.wait_for(lambda lines: numbers(lines) == [0, 1, 2], "workers by number again")
        terminal.send("q")
        equal(terminal.end(), 0)


@test
def the_screen_fits_what_it_is_given():
    with Host() as host:
        host.await_busy()
        terminal = screen(host.pid)
        for rows, columns in ((10, 40), (4, 20), (2, 5), (40, 120), (24, 80)):
            terminal.resize(rows, columns)
            wanted = "q quit   s stack of the oldest   up, down choose"[:columns].rstrip()
            terminal.wait_for(lambda lines: lines[-1].startswith(wanted), f"the keys in {columns} columns")
            assert rows < 10 or any(line.startswith(" NR") for line in terminal.screen.lines()), terminal.screen.text()
        terminal.send("q")
        equal(terminal.end(), 0)


@test
def a_signal_ends_the_screen():
    with Host() as host:
        host.await_busy()
        terminal = screen(host.pid)
        terminal.process.send_signal(signal.SIGTERM)
        equal(terminal.end(), 143)
        assert b"\x1b[?1049l" in terminal.output, terminal.output[-100:]


@test
def a_terminal_that_only_prints_gets_it_once():
    with Host() as host:
        host.await_busy()
        terminal = Terminal([PYCREW, "top", host.pid], rows=40, TERM="dumb")
        equal(terminal.end(), 0)
        text = " ".join(terminal.screen.lines())
        assert "can only print lines: this is what --once shows" in text or "without ncurses" in text, text
        assert "Workers  2: 2 busy" in terminal.screen.text(), terminal.screen.text()


if __name__ == "__main__":
    main()
