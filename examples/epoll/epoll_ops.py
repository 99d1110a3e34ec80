"""What the service does with a line: "3 4" gives the length of (3, 4)."""
import math


def answer(line):
    return f"{line.strip()}: {math.hypot(*map(float, line.split())):g}"
