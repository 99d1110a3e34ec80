"""The one that needs numpy: apart, for its import is no part of the other workloads."""

import numpy


def norm(a):
    return float(numpy.sqrt(a * a + 1.0).sum())
