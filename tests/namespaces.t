#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# Several hosts, each a network namespace of this test's own: one with the program, one with a Dask scheduler, two with
# workers, all on a bridge. A cable that is pulled drops packets without a word, as a host does that loses its power.
# Not part of make check (make check-namespaces); needs root, ip and Dask, else it is skipped with the reason.
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *

# A connection that does not answer for TIMEOUT_S, the least that Dask takes, is closed; LATE_S is what a loaded machine
# may add to that.
TIMEOUT_S, LATE_S = 11, 15
SETTINGS = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{TIMEOUT_S}s", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
            "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error", "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s"}
HOSTS = {"program": "10.77.0.1", "scheduler": "10.77.0.2", "one": "10.77.0.3", "two": "10.77.0.4"}
SCHEDULER = f"tcp://{HOSTS['scheduler']}:8786"


def ip(*words):
    ended = subprocess.run(["ip", *words], capture_output=True, text=True)
    if ended.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {ended.stderr.strip()}")


class Network:
    """The hosts, and what runs on them."""

    def __init__(self):
        self.prefix, self.made, self.processes = f"pycrew{os.getpid()}-", [], []

    def name(self, host):
        return self.prefix + host

    def make(self):
        self.add("switch")
        ip("-n", self.name("switch"), "link", "add", "br0", "type", "bridge")
        ip("-n", self.name("switch"), "link", "set", "br0", "up")
        for host, address in HOSTS.items():
            self.add(host)
            ip("-n", self.name("switch"), "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", self.name(host))
            ip("-n", self.name("switch"), "link", "set", host, "master", "br0", "up")
            ip("-n", self.name(host), "address", "add", f"{address}/24", "dev", "eth0")
            for link in "lo", "eth0":
                ip("-n", self.name(host), "link", "set", link, "up")

    def add(self, host):
        ip("netns", "add", self.name(host))
        self.made.append(self.name(host))

    def plug(self, host, there):
        ip("-n", self.name("switch"), "link", "set", host, "up" if there else "down")

    def words(self, host, *words):
        return ["ip", "netns", "exec", self.name(host), *words]

    def start(self, host, *words):
        with open(f"log-{host}-{len(self.processes)}", "wb") as log:
            process = subprocess.Popen(self.words(host, *words), env={**os.environ, **SETTINGS}, stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)

    def start_scheduler(self):
        self.start("scheduler", "dask-scheduler", "--host", HOSTS["scheduler"], "--port", "8786", "--no-dashboard", "--no-show")

    def start_worker(self, host):
        self.start(host, "dask-worker", "--host", HOSTS[host], "--nthreads", "1", "--no-nanny", "--no-dashboard",
                   "--local-directory", os.getcwd(), "--death-timeout", "60", SCHEDULER)

    def end(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "del", name])


@contextlib.contextmanager
def network():
    if os.geteuid() != 0:
        raise Skip("network namespaces are root's to make")
    for program, package in ("ip", "iproute2"), ("dask-scheduler", "python3-distributed"):
        if shutil.which(program) is None:
            raise Skip(f"{package} is not installed")
    hosts = Network()
    try:
        try:
            hosts.make()
        except OSError as error:
            raise Skip(f"this kernel or container makes no network namespaces: {error}")
        hosts.start_scheduler()
        for host in "one", "two":
            hosts.start_worker(host)
        yield hosts
    finally:
        hosts.end()


class Map:
    """pycrew map on the program's host, what it writes as it comes, and when."""

    def __init__(self, hosts):
        words = command("map", "--engine", "pycrew.engines.dask:cluster", "--engine-options",
                        json.dumps({"address": SCHEDULER, "timeout": 20}), "--timeout", "120s",
                        "--errors", "errors", ":slow_host")
        self.process = subprocess.Popen(hosts.words("program", *words), env={**os.environ, **SETTINGS}, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        hosts.processes.append(self.process)
        self.out, self.err = [], []
        self.readers = [threading.Thread(target=self.read, args=pair, daemon=True)
                        for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def read(stream, lines):
        for line in stream:
            lines.append((time.monotonic(), line.rstrip("\n")))

    def give(self, records):
        self.process.stdin.write("".join(f"{record}\n" for record in records))
        self.process.stdin.flush()

    def wait_until(self, condition, what):
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, f"waited for {what}: {self}"
            time.sleep(0.005)

    def numbers(self):
        return [json.loads(line)[0] for _, line in self.out]

    def hosts(self, begin=0):
        return {json.loads(line)[1] for _, line in self.out[begin:]}

    def end(self):
        self.process.stdin.close()
        try:
            code = self.process.wait(LIMIT_S)
        finally:
            self.process.kill()
        for reader in self.readers:
            reader.join()
        return code

    def __repr__(self):
        return f"{len(self.out)} results, stderr: {[line for _, line in self.err]}"


@test
def a_worker_host_that_is_cut_off_in_mid_batch_costs_no_record():
    with network() as hosts:
        records = Map(hosts)
        records.give(range(600))
        records.wait_until(lambda: len(records.hosts()) == 2, "results of both hosts")
        hosts.plug("one", False)
        cut, before = time.monotonic(), len(records.out)
        assert before < 500, before
        equal(records.end(), 0, records)
        equal(records.numbers(), list(range(600)))
        assert HOSTS["two"] in records.hosts(before), records.hosts(before)
        print(f"# cut off after {before} of 600 records, all there {records.out[-1][0] - cut:.1f} s later")


@test
def a_scheduler_host_that_is_cut_off_is_an_error_in_time_and_works_again_when_it_is_back():
    with network() as hosts:
        records = Map(hosts)
        records.give(range(300))
        records.wait_until(lambda: records.out, "the first result")
        hosts.plug("scheduler", False)
        cut = time.monotonic()
        records.wait_until(lambda: any("the engine was lost" in line for _, line in records.err), "an error")
        said = [at for at, line in records.err if "the engine was lost" in line][0] - cut
        assert said < TIMEOUT_S + LATE_S, f"after {said:.1f} s"
        hosts.plug("scheduler", True)
        back = time.monotonic()
        for host in "one", "two":
            hosts.start_worker(host)  # as an init system would: they end when their scheduler is gone
        records.give([1000])
        records.wait_until(lambda: 1000 in records.numbers(), "a record after that")
        again = time.monotonic() - back
        equal(records.end(), 1, records)
        failed = [json.loads(line) for line in read("errors").splitlines()]
        equal(sorted(records.numbers() + [error["input"] for error in failed]), [*range(300), 1000])
        equal({(error["code"], error["may_have_run"]) for error in failed}, {("PYCREW_EDIED", True)})
        print(f"# errors {said:.1f} s after it was cut off, a result {again:.1f} s after it was back")


main()
