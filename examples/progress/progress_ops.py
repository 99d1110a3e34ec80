from pycrew import host


def work(steps):
    """Some steps, and what the program says about them."""
    for step in range(1, steps + 1):
        if not host.progress(step, steps):
            break
    return step
