#!/usr/bin/env python3
"""Measures pycrew and all that a user would pick instead, side by side: see README.md.

    bench.py --build FOLDER [--out FOLDER] [--quick] [--peers a,b] [--workloads a,b] [--parts calls,sleep,...]

Each peer runs as a child with the same command line and the same lines out (peer.h); the peers take turns.
Writes OUT/results.json, and prints a table. Ends with 1 if a peer gave a wrong result.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

import machine
import report
from child import Child, Hung, adopt_orphans, run_cells
from peers import find_peers
from workloads import KILL, MEMORY, SLEEP, START, WORKLOADS

HERE = pathlib.Path(__file__).resolve().parent
# In this order; each has to leave what is over of the time to those behind it.
PARTS = {"limits": 0.1, "start": 0.2, "sleep": 0.38, "memory": 0.45, "kill": 0.6, "calls": 1.0}
LIMITS = "cacheline_rtt_ns,inprocess_call_ns,bare_park_rtt_ns,futex_rtt_ns,memcpy_64mib_us"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--build", required=True, help="where pycrew was built")
    add("--out", default=".", help="where results go")
    add("--quick", action="store_true", help="one short round: a minute or two, rough")
    add("--minutes", type=float, help="how long all may take (10, with --quick 2)")
    add("--rounds", type=int, help="at most (5, with --quick 1)")
    add("--seconds", type=float, help="of a cell: one peer, one workload, one way (0.15, with --quick 0.05)")
    add("--peers", help="only these, comma-separated")
    add("--workloads", help="only these")
    add("--parts", default=",".join(PARTS), help="only these: " + ",".join(PARTS))
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of each peer (one a CPU)")
    add("--sleepers", help="numbers of workers for sleep(1 ms) (1,4,16,64,256; with --quick 8)")
    add("--limit", type=float, default=15, help="seconds that a peer may say nothing before it is hung")
    add("--no-plots", action="store_true", help="no SVG files")
    add("--functions", default=str(HERE / "functions"), help="the functions' folder")
    options = parser.parse_args()
    defaults = (2, 1, 0.05, "8") if options.quick else (10, 5, 0.15, "1,4,16,64,256")
    for name, value in zip(("minutes", "rounds", "seconds", "sleepers"), defaults):
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.parts = [part for part in PARTS if part in options.parts.split(",")]
    return options


def make_scratch():
    """For all that peers leave in files; in memory if possible."""
    return tempfile.TemporaryDirectory(prefix="pycrew-bench-", ignore_cleanup_errors=True,
                                       dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class Bench:
    def __init__(self, options):
        self.options = options
        self.end = time.monotonic() + 60 * options.minutes
        self.longest = 0  # of the seconds that a peer took for all of its calls
        self.loops = machine.loops_of_10us(options.functions)
        self.peers, self.missing = find_peers(options)
        self.workloads = WORKLOADS
        if options.workloads:
            self.workloads = [w for w in WORKLOADS if w.name in options.workloads.split(",")]
        self.results = {"machine": machine.facts(), "python": sys.version.split()[0], "versions": {}, "limits": {},
                        "missing": self.missing, "options": {k: v for k, v in vars(options).items()
                                                             if k in ("quick", "rounds", "seconds", "workers")},
                        "loops_of_10us": self.loops, "workloads": {w.name: w.what for w in WORKLOADS},
                        "peers": {p.name: p.title for p in self.peers}, "rounds": 0, "starts": [], "cells": [],
                        "memory": [], "wrong": [], "cut": []}

    def say(self, text):
        print(f"[{self.end - time.monotonic():4.0f} s left] {text}", file=sys.stderr, flush=True)

    def has_time(self, seconds=0):
        return time.monotonic() + seconds < self.end

    def may_run(self, peer, part):
        """If not, that is said, here and in the report."""
        is_last = self.options.parts[-1] == part
        rest = 0 if is_last else 60 * self.options.minutes * (1 - PARTS[part])
        if self.has_time(rest + self.longest):
            return True
        if (part, peer.name) not in self.results["cut"]:
            self.results["cut"].append((part, peer.name))
        return False

    # ---- a child's lines become results ----

    def run(self, peer, workers, cells, part, **more):
        """cells: of workload, way and seconds."""
        specs = [workload.cell(way, seconds, self.loops) for workload, way, seconds in cells]
        for line in run_cells(peer, workers, specs, self.options, **more):
            line.update(peer=peer.name, workers=workers, part=part)
            if "hello" in line:
                self.results["versions"][peer.name] = line["hello"]
            elif "first_result_ns" in line:
                self.results["starts"].append(line)
            elif "memory" in line:
                self.results["memory"].append(line)
            elif "cell" in line:
                self.results["cells"].append(line)
                if "wrong" in line:
                    self.results["wrong"].append(line)
                if line.keys() & {"wrong", "hung", "failed"}:
                    self.say(f"{peer.name}: {json.dumps(line)}")

    # ---- parts ----

    def limits(self):
        command = [f"{self.options.build}/bench/pycrew-bench", "--json", "--only", LIMITS]
        command += ["--quick", "--rounds", "1" if self.options.quick else "5"]
        with Child(command, self.options) as child:
            try:
                for line in child.lines(60):
                    self.results["limits"] = {k: v for k, v in line.items() if k in LIMITS.split(",")}
            except Hung:
                self.say("the limits take too long: is the machine busy?")

    def start(self):
        for _ in range(min(self.options.rounds, 3)):
            for peer in self.peers:
                if peer.is_called and self.may_run(peer, "start"):
                    self.run(peer, self.options.workers, [(START, "one", 0.01)], "start")

    def sleep(self):
        for workers in map(int, self.options.sleepers.split(",")):
            for peer in self.peers:
                if workers <= peer.most_workers and self.may_run(peer, "sleep"):
                    cells = [(SLEEP, way, 2 * self.options.seconds) for way in peer.ways_for(SLEEP)]
                    self.run(peer, workers, cells, "sleep")

    def memory(self):
        for peer in self.peers:
            if peer.is_called and self.may_run(peer, "memory"):
                self.run(peer, 8, [(MEMORY, peer.ways[-1], self.options.seconds)], "memory")

    def kill(self):
        seconds = 5 * self.options.seconds
        for peer in self.peers:
            if peer.generation is not None and peer.is_called and self.may_run(peer, "kill"):
                cells = [(KILL, way, seconds) for way in ("one", *peer.ways_for(KILL))]
                self.run(peer, self.options.workers, cells, "kill", kill=True)

    def round(self, number):
        """All peers in turn, each round beginning with another."""
        first = number % len(self.peers)
        for peer in self.peers[first:] + self.peers[:first]:
            if not peer.is_called or not self.may_run(peer, "calls"):
                continue
            cells = [(workload, way, self.options.seconds) for workload in self.workloads
                     for way in ("one", *peer.ways_for(workload))]
            begin = time.monotonic()
            self.run(peer, self.options.workers, cells, "calls")
            self.longest = max(self.longest, time.monotonic() - begin)

    def calls(self):
        longest = 0
        for number in range(self.options.rounds):
            if number > 0 and not self.has_time(1.1 * longest):
                break
            begin = time.monotonic()
            self.round(number)
            self.results["rounds"] += 1
            longest = max(longest, time.monotonic() - begin)
            self.say(f"round {number + 1} of {self.options.rounds} took {longest:.0f} s")

    def all(self):
        for part in self.options.parts:
            self.say(part)
            getattr(self, part)()
            cut = [name for cut_part, name in self.results["cut"] if cut_part == part]
            if cut:
                self.say(f"no time was left for {', '.join(cut)}")
        self.results["machine"]["load_at_end"] = os.getloadavg()


def main():
    options = parse_arguments()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all that has to be ended
    with make_scratch() as options.scratch:
        bench = Bench(options)
        for name, why in bench.missing.items():
            bench.say(f"without {name}: {why}")
        bench.all()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(bench.results, indent=1) + "\n")
    print(report.tables(bench.results))
    if not options.no_plots and report.plots(bench.results, out):
        bench.say(f"plots and results.json are in {out}")
    for line in bench.results["wrong"]:
        print(f"WRONG: {line['peer']}: {line['wrong']}", file=sys.stderr)
    return 1 if bench.results["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
