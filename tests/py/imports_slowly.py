"""A module whose import takes for ever, after it has said that it began."""
import os
import time

with open(os.environ["SLOW_IMPORT"], "a") as file:
    file.write("x")
time.sleep(1000)


def anything():
    return 1
