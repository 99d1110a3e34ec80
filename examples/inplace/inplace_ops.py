"""Rows of a matrix made to add up to 1, in the caller's memory."""


def normalize(a):
    a /= a.sum(axis=1, keepdims=True)
