"""Shapes, for a program in C."""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass
class Point:
    """Where something is."""

    x: float
    y: float


def centre(points: list[Point]) -> Point:
    """The mean of all points; none have no centre."""
    return Point(sum(p.x for p in points) / len(points), sum(p.y for p in points) / len(points))


def describe(point: Point, digits: int = 2) -> str:
    return f"({point.x:.{digits}f}, {point.y:.{digits}f})"


def line(start: Point, end: Point, steps: int) -> Iterator[Point]:
    """Points from start to end."""
    for i in range(steps + 1):
        yield Point(start.x + (end.x - start.x) * i / steps, start.y + (end.y - start.y) * i / steps)
