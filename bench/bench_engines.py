"""Functions for bench/engines."""
import os


def nothing(number):
    return number


def work(number):
    """Some 10 us, always the same."""
    total = 0
    for i in range(WORK):
        total += i ^ number
    return total


WORK = int(os.environ.get("BENCH_WORK", 400))


def same(array):
    return array
