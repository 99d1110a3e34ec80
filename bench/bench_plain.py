"""What pycrew-bench's map_whole_ns is compared with: numpy.add of two float64 columns, in so many plain
processes, each with its share of the elements. Prints nanoseconds per element, the best of the runs.

    bench_plain.py ELEMENTS PROCESSES RUNS
"""

import os
import sys
import time

import numpy


def work(count, go, done):
    a = numpy.arange(count, dtype=numpy.float64)
    b = numpy.arange(count, dtype=numpy.float64)
    out = numpy.zeros(count)
    os.write(done, b".")
    while os.read(go, 1):
        numpy.add(a, b, out=out)
        os.write(done, b".")


def start(count):
    go, done = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(go[1])
        work(count, go[0], done[1])
        os._exit(0)
    os.close(go[0])
    os.read(done[0], 1)
    return go[1], done[0]


def main():
    elements, processes, runs = (int(word) for word in sys.argv[1:])
    pipes = []
    for _ in range(processes):
        pipes.append(start(elements // processes))
    times = []
    for _ in range(runs + 1):
        begin = time.monotonic_ns()
        for go, _ in pipes:
            os.write(go, b".")
        for _, done in pipes:
            os.read(done, 1)
        times.append(time.monotonic_ns() - begin)
    print(min(times[1:]) / elements)
    sys.stdout.flush()
    os._exit(0)


main()
