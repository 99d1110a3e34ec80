"""Functions for bench/growth: as many as it asks for, all the same."""


def __getattr__(name):
    if name[:1] != "f" or not name[1:].isdigit():
        raise AttributeError(name)

    def function(a, b):
        return a + b
    function.__name__ = name
    globals()[name] = function
    return function


def echo(data):
    return data
