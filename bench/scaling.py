#!/usr/bin/python3
"""Calls a second on machines with more CPUs than this one, as a model says: see doc/scaling.md.

    scaling.py [--transfer NS] [--rmw NS] [--worker NS] [--host NS]

The numbers are measured ones: --transfer, a cache line from one CPU to another (half of cacheline_rtt_ns of
pycrew-bench); --rmw, a locked instruction on a line that is at hand (growth, shared_word of 1); --worker, what a
worker takes for a call beside the function (pipelined_ns, less the function); --host, the host's CPU time of a
call (growth, in_flight of 1024).

All workers take calls at one word, the ring's head; all threads of the host give them at another, the tail. Each
is a queue with one server, its customers come back after their own work: a closed network, whose throughput
exact mean value analysis gives.
"""
import argparse

COUNTS = 1, 2, 4, 8, 16, 32, 64, 128


def service_ns(customers, transfer, rmw):
    """At the word: its line is another's but for one time in `customers`."""
    return rmw + transfer * (1 - 1 / customers)


def throughput(customers, own_ns, transfer, rmw):
    """Calls a nanosecond of so many, each own_ns away from the word between two visits."""
    service = service_ns(customers, transfer, rmw)
    queue = 0.0
    rate = 0.0
    for n in range(1, customers + 1):
        stay = service * (1 + queue)
        rate = n / (own_ns + stay)
        queue = rate * stay
    return rate


def table(title, own_ns, options, per_visit=1):
    """One line: millions of calls a second for each count, and where a tenth is lost against as many alone."""
    alone = throughput(1, own_ns, options.transfer, options.rmw)
    rates = [throughput(n, own_ns, options.transfer, options.rmw) for n in COUNTS]
    knee = next((n for n, rate in zip(COUNTS, rates) if rate < 0.9 * n * alone), None)
    cells = " | ".join(f"{rate * per_visit * 1e3:.3g}" for rate in rates)
    print(f"| {title} | {cells} | {knee or 'none'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transfer", type=float, default=120, metavar="NS")
    parser.add_argument("--rmw", type=float, default=8, metavar="NS")
    parser.add_argument("--worker", type=float, default=100, metavar="NS")
    parser.add_argument("--host", type=float, default=100, metavar="NS")
    options = parser.parse_args()
    print("Millions of calls (records) a second; the last column is where a tenth of it is lost.\n")
    print("| | " + " | ".join(map(str, COUNTS)) + " | knee |")
    print("| --- |" + " ---: |" * (len(COUNTS) + 1))
    for name, function_ns in ("nothing", 30), ("add, 70 ns", 70), ("1 us", 1e3), ("10 us", 1e4), ("100 us", 1e5):
        table(f"workers, single calls of {name}", options.worker + function_ns, options)
    for items, function_ns in (100, 70), (1000, 70), (100, 1e3):
        table(f"workers, chunks of {items} records of {function_ns:g} ns", options.worker + items * function_ns, options,
              items)
    table("threads of the host that submit single calls", options.host, options)


main()
