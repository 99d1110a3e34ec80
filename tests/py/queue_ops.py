"""What tests/test-queue.c calls."""
import os
import socket
import tempfile

reused = []


def number(value):
    """Says who answered, so that it can be killed."""
    return value, os.getpid()


def close_all_and_reuse(count, kind):
    """Closes every descriptor, the worker's own too, and opens others under their numbers."""
    os.closerange(3, 4096)
    while len(reused) < count:
        if kind == "socket":
            for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
                end.send(b"mine")
                reused.append(("socket", end))
        elif kind == "eventfd":
            reused.append(("eventfd", os.eventfd(0, os.EFD_NONBLOCK)))
        else:
            reused.append(("file", tempfile.TemporaryFile()))
    return len(reused)


def is_touched(kind, what):
    if kind == "socket":
        return left_message(what) != b"mine" or left_message(what) is not None
    if kind == "eventfd":
        try:
            return os.eventfd_read(what) != 0
        except BlockingIOError:
            return False
    return os.fstat(what.fileno()).st_size != 0


def left_message(sock):
    sock.setblocking(False)
    try:
        return sock.recv(16)
    except BlockingIOError:
        return None  # somebody read it


def note_touched():
    """At the worker's exit: a line that says how many of the descriptors were touched."""
    path = os.environ.get("TEST_TOUCHED_NOTE")
    if path and reused:
        with open(path, "a") as file:
            print(sum(is_touched(*entry) for entry in reused), file=file)
