"""harness.c for peers in Python: the same command line, the same lines out (see peer.h).

    harness.py PEER WORKERS RECORD_FILE CELL...

A peer is a module of the folder python with a class Peer:

    Peer(workers)              starts it
    one(function, arguments)   calls, and returns the result
    ways                       {"name": method}: method(function, list of argument tuples) gives the results in
                               order; an exception for a call that was lost
    close()
    modules                    whose versions are printed, module names
Without `one` it is only for loops that need no calls.
"""

import collections
import importlib
import json
import os
import platform
import sys
import time

from workloads import Records

now_ns = time.monotonic_ns
TOLERANT_RUN = 512  # calls that are lost take no time: with them a run's length is fixed
TOLERANT = "BENCH_TOLERANT" in os.environ


def say(**line):
    print(json.dumps(line), flush=True)


def bucket(value):
    """A log-linear histogram: 64 buckets to a power of two, within 1.6 %."""
    shift = max(value.bit_length() - 7, 0)
    return value >> shift << shift


def find(name):
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


class Cell:
    def __init__(self, peer, records):
        self.peer, self.records = peer, records
        self.function = find(records.function)
        self.lost = 0

    def check(self, i, result):
        if not self.records.is_right(i, result):
            say(cell=self.records.name, wrong=f"{self.records.function} of record {i} gave {result!r:.100}")
            os._exit(1)

    # ---- one at a time ----

    def call(self, i):
        self.records.prepare(i, self.map_array)
        try:
            result = self.peer.one(self.function, self.records.arguments(i))
        except Exception as error:
            self.lose(1, error)
        else:
            self.check(i, result)

    def lose(self, count, error):
        if not TOLERANT:
            raise error
        self.lost += count

    def call_for(self, first, seconds):
        times, i = collections.Counter(), first
        begin = now_ns()
        end = begin + int(1e9 * seconds)
        while begin < end or i == first:
            self.call(i)
            now = now_ns()
            times[bucket(now - begin)] += 1
            begin = now
            i += 1
        return i, times

    def measure_one(self):
        first, _ = self.call_for(0, self.records.seconds / 5)
        self.lost = 0
        end, times = self.call_for(first, self.records.seconds)
        return {"count": end - first, "calls": sorted(times.items())}

    # ---- many at once ----

    def run(self, first, count):
        self.records.prepare(first, self.map_array)
        calls = [self.records.arguments(i) for i in range(first, first + count)]
        done = 0
        begin = now_ns()
        try:
            for result in self.peer.ways[self.records.way](self.function, calls):
                if isinstance(result, Exception):
                    self.lose(1, result)
                else:
                    self.check(first + done, result)
                done += 1
        except Exception as error:
            self.lose(count - done, error)
        else:
            if done != count:
                raise RuntimeError(f"{count} calls, {done} results")
        return now_ns() - begin

    def lesser_run(self, first, count, enough):
        """One that took long is tried again: it may have been the machine."""
        ns = self.run(first, count)
        return ns if ns < enough else min(ns, self.run(first, count))

    def measure_many(self):
        first, count, budget = 0, TOLERANT_RUN if TOLERANT else 1, int(1e9 * self.records.seconds)
        while not TOLERANT and (ns := self.lesser_run(first, count, budget // 4)) < budget // 4 and count < 1 << 20:
            first += count
            count *= 8 if ns < budget // 64 else 2
        runs, spent, self.lost = [], 0, 0
        while spent < budget:
            first += count
            spent += (ns := self.run(first, count))
            runs.append(round(ns / count, 4))
        return {"run": count, "count": count * len(runs), "runs": runs}

    def map_array(self, count):
        from peer_shared import Shared
        self.array = Shared(count)
        return self.array

    def measure(self):
        self.array = None
        say(begin=self.records.name, way=self.records.way)
        try:
            times = self.measure_one() if self.records.way == "one" else self.measure_many()
            say(cell=self.records.name, way=self.records.way, lost=self.lost, **times)
        finally:
            if self.array is not None:
                self.array.remove()


def versions(modules):
    from importlib.metadata import version
    return {"python": platform.python_version(), **{name: version(name) for name in modules}}


def main(peer_name, workers, record_file, *cells):
    module = importlib.import_module("python." + peer_name)
    all_records = [Records(cell, record_file) for cell in cells]
    for records in all_records:
        find(records.function)  # imported before the workers fork
    say(hello={**versions(module.Peer.modules), "pid": os.getpid()})
    # Where a launcher started the workers before this program: from its start.
    begin = int(os.environ.get("BENCH_BEGIN_NS", now_ns()))
    peer = module.Peer(int(workers))
    if hasattr(peer, "one"):
        first = Cell(peer, all_records[0])
        first.array = None
        first.call(0)
        say(first_result_ns=now_ns() - begin)
    for records in all_records:
        Cell(peer, records).measure()
        if records.name == "memory":
            say(memory=True)
            sys.stdin.readline()
    peer.close()
    say(done=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
