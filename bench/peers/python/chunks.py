"""What several peers need: four chunks a worker, as multiprocessing.Pool.map makes them."""


def chunk_for(count, workers, most=1 << 20):
    return min(max(-(-count // (4 * workers)), 1), most)


def call_each(function, calls):
    """In a worker: a chunk of calls."""
    return [function(*arguments) for arguments in calls]


def star(function, arguments):
    return function(*arguments)
