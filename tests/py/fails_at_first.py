"""A module that cannot be imported before the file TEST_MODULE_FLAG names is there."""
import os

if not os.path.exists(os.environ["TEST_MODULE_FLAG"]):
    raise LookupError("the flag is not there yet")


def answer():
    return 42
