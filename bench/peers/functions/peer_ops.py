"""The functions that every peer calls: plain Python, which knows nothing of who calls it."""

import json
import time


def nothing():
    pass


def add(a, b):
    return a + b


def change(text):
    """A record is parsed, changed and dumped."""
    record = json.loads(text)
    record["id"] += 1
    return json.dumps(record)


def spin(i, loops):
    """So many rounds of a Python loop."""
    done = 0
    for _ in range(loops):
        done += 1
    return i + done


def pause(i):
    time.sleep(0.001)
    return i


def ends(a):
    return float(a[0]) + float(a[-1])
