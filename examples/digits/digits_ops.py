"""scikit-learn's handwritten digits and a classifier, trained when this is imported: preloaded, that is once,
and all workers are born with it. As a program, what one process finds: the digits, one a line."""

import numpy
from sklearn.datasets import load_digits
from sklearn.svm import SVC

_digits = load_digits()
_pixels = _digits.data.astype(numpy.uint8)
_model = SVC(gamma=0.001).fit(_pixels[:900], _digits.target[:900])


def images():
    """All of them: a row of 64 pixels each."""
    return _pixels


def truth():
    return _digits.target


def classify(image):
    """One image, as bytes."""
    return classify_all(numpy.frombuffer(image, numpy.uint8).reshape(1, -1))[0]


def classify_all(images):
    return _model.predict(images)


if __name__ == "__main__":
    print(*classify_all(_pixels), sep="\n")
