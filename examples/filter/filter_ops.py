"""A picture blurred by scipy, whole or tile by tile. As a program: what one process makes of the whole one,
to the file named."""

import sys
import warnings

import numpy
from scipy.ndimage import gaussian_filter

SIGMA, HALO = 3, 12  # so far does the filter look: scipy truncates at 4 sigma


def picture():
    """2048 x 2048 pixels of a photograph: the one that comes with scipy, and mirrored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from scipy 1.10 on it is to be downloaded, but still there
        from scipy.misc import ascent

        photograph = ascent().astype(numpy.float32)
    return numpy.pad(photograph, ((0, 1536), (0, 1536)), mode="symmetric")


def blur(image):
    return gaussian_filter(image, SIGMA)


def blur_tile(tile, above, left, right, below):
    """Blurs the tile in place. Around it is what was there before any tile was blurred, HALO pixels wide, and
    none where the picture ends."""
    middle = numpy.hstack([left, tile, right])
    blurred = blur(numpy.vstack([above, middle, below]))
    top, side = len(above), left.shape[1]
    tile[...] = blurred[top : top + tile.shape[0], side : side + tile.shape[1]]


if __name__ == "__main__":
    blur(picture()).tofile(sys.argv[1])
