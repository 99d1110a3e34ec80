"""Linear equations by LAPACK, which wants columns: Fortran's own arrays are used as they are."""

import scipy.linalg


def solve(matrix, sides):
    """The solution is in sides afterwards, the matrix is used up. scipy is allowed to overwrite, and
    does so with column-major arrays of doubles; others it copies, and then so do we."""
    solution = scipy.linalg.solve(matrix, sides, overwrite_a=True, overwrite_b=True)
    if solution.ctypes.data != sides.ctypes.data:
        raise ValueError("scipy copied: sides is to be a writable column-major array of doubles")
