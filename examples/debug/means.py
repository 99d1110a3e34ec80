def mean(values):
    total = sum(values)
    breakpoint()
    return total / len(values)
