"""The same with arrays: a module of its own, since each new zygote of a crew that has it imports numpy."""

import numpy as np
import pycrew

from steps_ops import _marks

_kept = []


def copy(index, a):
    _marks[index] += 1
    b = pycrew.empty(a.shape)
    b[:] = a
    return b


def keep(index, a):
    _marks[index] += 1
    _kept.append(a)
    return float(a[0])


def kept_value():
    """What all elements of what was kept are; -0.5: nothing was. (0 is what memory shows that was freed.)"""
    if not _kept:
        return -0.5
    value = float(_kept[-1][0])
    return value if all((a == value).all() for a in _kept) else float("nan")


def let_go():
    _kept.clear()


def slice(indices):
    marks = np.frombuffer(_marks, np.uint8)
    marks[indices] += 1
    return indices + 7
