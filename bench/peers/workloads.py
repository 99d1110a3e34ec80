"""The table of workloads, and their records as peers in Python need them; records.c is the same in C."""

import math


class Workload:
    def __init__(self, name, what, function, kind, parameter=0, unit=0, seconds=1):
        self.name, self.what, self.function, self.kind = name, what, function, kind
        self.parameter = parameter  # of spin and skewed: how often ten microseconds of a loop
        self.unit = unit            # 1: the parameter is in loops
        self.seconds = seconds      # how much longer than others it takes to measure

    def cell(self, way, seconds, loops):
        parameter = self.parameter * loops if self.unit else self.parameter
        return f"{self.name},{self.function},{self.kind},{parameter},{way},{seconds * self.seconds:g}"


WORKLOADS = [
    Workload("nothing", "a function that does nothing", "peer_ops:nothing", "none"),
    Workload("add", "the sum of two ints", "peer_ops:add", "ints"),
    Workload("json", "1 KB of JSON parsed, changed, dumped", "peer_ops:change", "text"),
    Workload("py10us", "10 us of Python", "peer_ops:spin", "spin", 1, 1),
    Workload("py100us", "100 us of Python", "peer_ops:spin", "spin", 10, 1),
    Workload("py10ms", "10 ms of Python", "peer_ops:spin", "spin", 1000, 1, 2),
    Workload("skewed", "10 us of Python, each 100th 1 ms", "peer_ops:spin", "skewed", 1, 1),
    Workload("array", "first and last of a 64 MiB array", "peer_ops:ends", "ends", 8 << 20),
    Workload("numpy", "sqrt(a * a + 1).sum() of 1 MiB", "peer_numpy:norm", "norm", 1 << 17),
]
# Not of the table of calls: each with a part of its own.
START = Workload("start", "the first result after the start", "peer_ops:add", "ints")
SLEEP = Workload("sleep", "a sleep of 1 ms", "peer_ops:pause", "index")
MEMORY = Workload("memory", "memory of workers that have had a call", "peer_ops:pause", "index")
KILL = Workload("kill", "100 us of Python, a worker killed each 100 ms", "peer_ops:spin", "spin", 10, 1)

SKEW_EVERY, SKEW_FACTOR = 100, 100
RECORD_START = '{"id": '


class Records:
    """The records of one cell."""

    def __init__(self, cell, record_file):
        self.name, self.function, self.kind, parameter, self.way, seconds = cell.split(",")
        self.parameter, self.seconds = int(parameter), float(seconds)
        with open(record_file) as file:
            self.rest = file.read().rstrip("\n")[len(RECORD_START) + 1:]
        self.array = None

    def loops(self, i):
        long = self.kind == "skewed" and i % SKEW_EVERY == SKEW_EVERY - 1
        return self.parameter * (SKEW_FACTOR if long else 1)

    def prepare(self, first, map_array):
        """All calls of a run get the same array: its first element tells the runs apart."""
        if self.kind not in ("ends", "norm"):
            return
        if self.array is None:
            import numpy
            self.array = map_array(self.parameter)
            numbers = self.array.numbers
            numbers[:] = numpy.arange(self.parameter) / self.parameter
            numbers[-1] = 1 if self.kind == "ends" else numbers[-1]
            self.norm_rest = float(numpy.sqrt(numbers[1:] * numbers[1:] + 1).sum())
        self.array.numbers[0] = self.first = first

    def arguments(self, i):
        kind = self.kind
        if kind == "none":
            return ()
        if kind == "ints":
            return i, 2 * i
        if kind == "text":
            return (f"{RECORD_START}{i}{self.rest}",)
        if kind in ("spin", "skewed"):
            return i, self.loops(i)
        return (i,) if kind == "index" else (self.array,)

    def is_right(self, i, result):
        kind = self.kind
        if kind == "none":
            return result is None
        if kind == "ints":
            return result == 3 * i
        if kind == "text":
            return result == f"{RECORD_START}{i + 1}{self.rest}"
        if kind in ("spin", "skewed"):
            return result == i + self.loops(i)
        if kind == "index":
            return result == i
        if kind == "ends":
            return result == self.first + 1
        return abs(result / (self.norm_rest + math.sqrt(self.first ** 2 + 1)) - 1) < 1e-9
