"""Functions with every annotation that has a C type. Most return what they are given; with the name `wrong` as the
text, or a wrong() in between, something else than they promise."""
from __future__ import annotations

import asyncio
import collections.abc
import dataclasses
import functools
import os
import signal
import typing

import numpy
import numpy.typing

UserId = typing.NewType("UserId", int)
Pair = typing.Tuple[int, float]


@dataclasses.dataclass
class Point:
    """A place."""

    x: int
    y: float = 0.5


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    data: bytes
    at: Point
    tags: list[str] = dataclasses.field(default_factory=list)
    parent: typing.Optional[Point] = None


class Named(typing.NamedTuple):
    switch: bool
    default: str


@dataclasses.dataclass
class Grid:
    cells: numpy.typing.NDArray[numpy.int32]
    label: str


_wrong = None


def set_wrong(name: str) -> None:
    """From now on each function returns something that is not of its type: the value of this expression."""
    global _wrong
    _wrong = eval(name) if name else None


def _answer(value):
    return value if _wrong is None else _wrong


# ---- scalars ----

def add(a: int, b: int) -> int:
    """Adds two ints. */ /* Nothing in here ends a comment: */"""
    return _answer(a + b)


def negate(flag: bool) -> bool:
    return _answer(not flag)


def half(x: float) -> float:
    return _answer(x / 2)


def text(s: str) -> str:
    return _answer(s)


def data(b: bytes) -> bytes:
    return _answer(b[::-1])


def nothing() -> None:
    return _answer(None)


def user(u: UserId) -> UserId:
    return _answer(u)


def annotated(n: typing.Annotated[int, "a comment"]) -> int:
    return _answer(n)


# ---- None ----

def optional_int(n: typing.Optional[int]) -> typing.Optional[int]:
    return _answer(n)


def optional_float(x: float | None) -> float | None:
    return _answer(x)


def optional_bool(p: None | bool) -> None | bool:
    return _answer(p)


def optional_text(s: typing.Optional[str]) -> typing.Optional[str]:
    return _answer(s)


def optional_data(b: typing.Optional[bytes]) -> typing.Optional[bytes]:
    return _answer(b)


def optional_point(p: typing.Optional[Point]) -> typing.Optional[Point]:
    assert p is None or type(p) is Point
    return _answer(p)


def optional_list(v: typing.Optional[list[int]]) -> typing.Optional[list[int]]:
    return _answer(v)


# ---- containers ----

def reverse(v: list[int]) -> list[int]:
    return _answer(v[::-1])


def floats(v: typing.List[float]) -> typing.Sequence[float]:
    return _answer(v)


def words(v: list[str]) -> list[str]:
    return _answer(v)


def chunks(v: list[bytes]) -> list[bytes]:
    return _answer(v)


def flags(v: list[bool]) -> list[bool]:
    return _answer(v)


def holes(v: list[typing.Optional[int]]) -> list[typing.Optional[int]]:
    return _answer(v)


def matrix(v: list[list[float]]) -> list[list[float]]:
    return _answer(v)


def pair(p: tuple[int, str]) -> tuple[str, int]:
    assert type(p) is tuple
    return _answer(p[::-1])


def swap(p: Pair) -> tuple[float, int]:
    return _answer(p[::-1])


def many(v: tuple[int, ...]) -> tuple[int, ...]:
    assert type(v) is tuple
    return _answer(v)


def counts(d: dict[str, int]) -> dict[str, int]:
    return _answer(d)


def by_number(d: dict[int, str]) -> typing.Dict[int, str]:
    return _answer(d)


def deep(d: dict[str, list[tuple[int, typing.Optional[str]]]]) -> dict[str, list[tuple[int, typing.Optional[str]]]]:
    return _answer(d)


# ---- dataclasses ----

def shift(p: Point, dx: int) -> Point:
    """Moves it to the right."""
    assert type(p) is Point
    return _answer(Point(p.x + dx, p.y))


def item(i: Item) -> Item:
    assert type(i) is Item and type(i.at) is Point
    return _answer(i)


def items(v: list[Item]) -> dict[str, Item]:
    return _answer({i.name: i for i in v})


def named(n: Named) -> Named:
    assert type(n) is Named
    return _answer(n)


def points(p: tuple[Point, Point]) -> list[Point]:
    assert type(p[1]) is Point
    return _answer(list(p))


# ---- arrays ----

def norm(x: numpy.typing.NDArray[numpy.float64]) -> float:
    return _answer(float(numpy.sqrt((x * x).sum())))


def scaled(x: numpy.typing.NDArray[numpy.float64], by: float) -> numpy.typing.NDArray[numpy.float64]:
    return _answer(x * by)


def bits(x: "numpy.ndarray[typing.Any, numpy.dtype[numpy.uint8]]") -> numpy.typing.NDArray[numpy.bool_]:
    return _answer(numpy.unpackbits(x).astype(bool))


def grid(g: Grid) -> Grid:
    return _answer(Grid(g.cells + 1, g.label))


def fill(out: numpy.typing.NDArray[numpy.int64], value: int) -> None:
    out[:] = value


# ---- parameters ----

def greet(name: str, times: int = 2, *, loud: bool = False, end: str = "!") -> str:
    return _answer((name.upper() if loud else name) * times + end)


def total(first: int, /, *more: int, start: int) -> int:
    return _answer(start + first + sum(more))


def reserved(int: int, register: float, class_: str, crew: bool, ret: list[int]) -> str:
    return _answer(f"{int} {register} {class_} {crew} {ret}")


@functools.lru_cache(maxsize=None)
def cached(n: int) -> int:
    return n * n


# ---- coroutines and iterators ----

async def later(n: int) -> int:
    await asyncio.sleep(0)
    return _answer(n + 1)


async def later_point(p: Point) -> Point:
    await asyncio.sleep(0)
    return _answer(p)


def awaitable(n: int) -> collections.abc.Awaitable[int]:
    return later(n)


def squares(n: int) -> typing.Iterator[int]:
    for i in range(n):
        yield _answer(i * i)
    if n == 3:
        raise ValueError("three is enough")


def point_stream(n: int) -> collections.abc.Generator[Point, None, None]:
    for i in range(n):
        yield _answer(Point(i, i / 2))


async def words_later(text: str) -> collections.abc.AsyncIterator[str]:
    for word in text.split():
        await asyncio.sleep(0)
        yield _answer(word)


# ---- ends ----

def divide(a: int, b: int) -> int:
    return a // b


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def not_an_int() -> int:
    return "text"


def huge(n: int) -> int:
    return 1 << n


def shape_of_list(kind: int) -> list[Point]:
    """Wrong, one way or another."""
    return [[Point(1, 2.0), None], [Point("x", 1.0)], [(1, 2.0, 3)], {1}, [Point(1, b"")]][kind]


def _private(x):
    return x
