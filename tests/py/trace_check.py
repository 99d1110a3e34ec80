"""Reads a trace (options.trace) and checks what holds for each: it is JSON, every call is once in its worker's
track, times are in order, calls of a track do not overlap. Then the expressions given behind its name, in which
calls, chunks, queued, named("worker dies"), lost and events are what they say.

    trace_check.py [--cut] FILE [EXPRESSION]...

--cut: the host was killed, so that the end may be missing, which viewers bear."""
import json
import sys


def read(path, cut):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if cut:
        text = text.rstrip()
        if not text.endswith("]"):
            text += "\n]"
    return json.loads(text)


class Trace:
    def __init__(self, events, cut):
        self.events = events
        slices = [e for e in events if e["ph"] == "X"]
        self.calls = [e for e in slices if e["cat"] == "call"]
        self.chunks = [e for e in slices if e["cat"] == "chunk"]
        self.queued = [e for e in events if e["ph"] == "b"]
        self.workers = {e["tid"] for e in events if e["name"] == "thread_name" and e["tid"] != 0}
        end = [e for e in events if e["name"] == "pycrew_end"]
        assert len(end) == (0 if cut else 1), end
        self.lost = end[0]["args"]["lost_calls"] + end[0]["args"]["lost_events"] if end else None
        if end:
            assert events[-1] is end[0] and end[0]["args"]["events"] == len(events), (end, len(events))
        self.check_slices(slices)
        self.check_queue()

    def check_slices(self, slices):
        last = {}
        seen = set()
        for e in sorted(slices, key=lambda e: (e["tid"], e["ts"], e["dur"])):
            key = (e["args"]["call"], e["ts"])
            assert key not in seen, f"twice: {e}"
            seen.add(key)
            assert e["tid"] in self.workers and e["dur"] >= 0 and e["args"]["queued_us"] >= 0, e
            assert last.get(e["tid"], 0) <= e["ts"] + 0.001, f"overlaps the one before: {e}"
            last[e["tid"]] = e["ts"] + e["dur"]

    def check_queue(self):
        begun = {}
        for e in self.events:
            if e["ph"] == "b":
                assert e["id"] not in begun, e
                begun[e["id"]] = e["ts"]
            if e["ph"] == "e":
                assert begun.pop(e["id"]) <= e["ts"], e
        assert not begun, begun

    def named(self, name):
        return [e for e in self.events if e["name"] == name]


def main(arguments):
    cut = arguments[0] == "--cut"
    path, *expressions = arguments[cut:]
    trace = Trace(read(path, cut), cut)
    names = {name: getattr(trace, name) for name in ("events", "calls", "chunks", "queued", "named", "lost", "workers")}
    for expression in expressions:
        if not eval(expression, names):
            print(f"not so: {expression}")
            for e in trace.events[-20:]:
                print(json.dumps(e))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
