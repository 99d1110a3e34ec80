"""The same service as a WSGI application, for uWSGI and gunicorn: what service.c is compared with."""

import re

import service_ops


def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    pixels = bytes(map(int, re.findall(rb"\d+", body)))
    if len(pixels) != service_ops.PIXELS:
        start_response("400 Bad Request", [("Content-Length", "0")])
        return [b""]
    answer = b'{"digit": %d}\n' % service_ops.predict(pixels)[0]
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
