"""Not a way to call anything: plain processes, each with its share of a loop. What dispatch is measured with."""

import os
import struct


def serve(function, go, done):
    while count := os.read(go, 8):
        for i in range(*struct.unpack("q", count)):
            function(i)
        os.write(done, b".")
    os._exit(0)


class Peer:
    modules = ()

    def __init__(self, workers):
        self.workers = workers
        self.pipes = []
        self.ways = {"loop": self.loop}

    def start(self, function):
        for _ in range(self.workers):
            go, done = os.pipe(), os.pipe()
            if os.fork() == 0:
                os.close(go[1])
                for others, _ in self.pipes:
                    os.close(others)
                serve(function, go[0], done[1])
            os.close(go[0])
            os.close(done[1])
            self.pipes.append((go[1], done[0]))

    def loop(self, function, calls):
        if not self.pipes:
            self.start(function)
        for k, (go, _) in enumerate(self.pipes):
            os.write(go, struct.pack("q", len(calls[k::self.workers])))
        for _, done in self.pipes:
            os.read(done, 1)
        return [arguments[0] for arguments in calls]

    def close(self):
        for go, _ in self.pipes:
            os.close(go)
