"""The same functions over HTTP, for uWSGI and gunicorn: /module:name?a&b, or a body by POST."""

import importlib


def find(name, cache={}):
    if name not in cache:
        module, function = name.split(":")
        cache[name] = getattr(importlib.import_module(module), function)
    return cache[name]


def body_of(environ):
    data = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    if environ.get("CONTENT_TYPE") == "text/plain":
        return data.decode()
    import numpy
    return numpy.frombuffer(data)


def application(environ, start_response):
    function = find(environ["PATH_INFO"][1:])
    if environ["REQUEST_METHOD"] == "POST":
        result = function(body_of(environ))
    else:
        query = environ["QUERY_STRING"]
        result = function(*map(int, query.split("&"))) if query else function()
    text = str(result).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
