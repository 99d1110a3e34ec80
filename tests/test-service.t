#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# The example examples/service: right answers to many at once, deaths, deadlines, and changes of the process.
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
import cli_tap
from cli_tap import BUILD, LIMIT_S, TOP, Skip, equal, test, wait_until

SERVICE = os.path.join(BUILD, "examples", "service", "service")

try:
    sys.path.insert(0, os.path.join(TOP, "examples", "service"))
    import service_ops
    IMAGES = service_ops._pixels.tolist()
    EXPECTED = list(service_ops.predict(service_ops._pixels.tobytes()))
except ImportError:
    service_ops = None

GOOD = [0] * 64


class Service:
    """A running service; `with` ends it, and it must end well."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([os.path.join(BUILD, "run"), SERVICE, "-p", "0", *map(str, arguments)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)/", line).group(1))
        self.pids = {self.health()["pid"]}

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        pids = self.pids | {self.health()["pid"]}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGTERM if kind is None else signal.SIGKILL)
            except ProcessLookupError:
                pass
        code = self.process.wait(LIMIT_S)
        self.process.stdout.close()
        wait_until(lambda: not any(map(is_running, pids)), "the service ends")
        if kind is None:
            equal(code, 0)

    def ask(self, connection, method, path, body=None):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def once(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            return self.ask(connection, method, path, body)
        finally:
            connection.close()

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            equal(answer.status, 200)
            equal(answer.getheader("Content-Type"), "text/plain; version=0.0.4; charset=utf-8")
            return answer.read().decode()
        finally:
            connection.close()

    def health(self):
        return self.once("GET", "/health")[1]

    def predict(self, image):
        return self.once("POST", "/predict", json.dumps(image))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def with_first(pixel):
    return [pixel] + GOOD[1:]


class Client(threading.Thread):
    """Asks for digits, one after the other on a connection, until it is told to stop."""

    def __init__(self, service, number):
        super().__init__(daemon=True)
        self.service, self.index, self.answers, self.problem = service, number * 37, 0, None
        self.stopped = threading.Event()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=LIMIT_S)
        while not self.stopped.is_set() and self.problem is None:
            i = self.index % len(IMAGES)
            self.index += 1
            try:
                got = self.service.ask(connection, "POST", "/predict", json.dumps(IMAGES[i]))
                if got != (200, {"digit": EXPECTED[i]}):
                    self.problem = f"image {i}: {got}, expected {EXPECTED[i]}"
            except (OSError, http.client.HTTPException) as error:
                self.problem = f"image {i}: {error!r}"
            self.answers += 1
        connection.close()


class Clients:
    """Eight of them, while a test does something else."""

    def __init__(self, service):
        self.all = [Client(service, number) for number in range(8)]

    def __enter__(self):
        for client in self.all:
            client.start()
        return self

    def answered(self):
        return sum(client.answers for client in self.all)

    def answer_more(self, count):
        goal = self.answered() + count
        wait_until(lambda: self.answered() >= goal or self.problems(), f"{count} more answers")

    def problems(self):
        return [client.problem for client in self.all if client.problem]

    def __exit__(self, kind, *rest):
        for client in self.all:
            client.stopped.set()
        for client in self.all:
            client.join(LIMIT_S)
        if kind is None:
            equal(self.problems(), [])


def workers_of(pid):
    """Children of the zygote, which is the service's only child of our making."""
    def children(of):
        try:
            with open(f"/proc/{of}/task/{of}/children") as file:
                return list(map(int, file.read().split()))
        except OSError:
            return []
    return [worker for zygote in all_children(pid) for worker in children(zygote)]


def all_children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


@test
def each_digit_is_the_models():
    for options in ["-l", 1, "-w", 2], ["-l", 2, "-w", 2, "-b", 1]:
        with Service(*options) as service, Clients(service) as clients:
            clients.answer_more(600)


@test
def bad_requests_are_told_what_is_wrong():
    with Service("-w", 1) as service:
        for body in "", "1 2 3", json.dumps(GOOD + [0]), json.dumps([256] + GOOD[1:]), "9" * 300:
            status, answer = service.once("POST", "/predict", body)
            equal((status, answer), (400, {"error": "wanted: 64 numbers from 0 to 255"}), body)
        equal(service.once("GET", "/predict")[0], 404)
        equal(service.once("POST", "/nowhere", "")[0], 404)
        equal(service.predict(GOOD)[0], 200)


@test
def no_request_fails_while_workers_are_killed():
    kills = 0
    with Service("-w", 2, "-r", 100) as service:
        pid = service.health()["pid"]
        with Clients(service) as clients:
            while kills < 20 and not clients.problems():
                workers = workers_of(pid)
                if workers:
                    os.kill(random.choice(workers), signal.SIGKILL)
                    kills += 1
                clients.answer_more(20)
        assert service.health()["deaths"] >= 10, service.health()


@test
def an_image_that_kills_costs_none_of_its_neighbours():
    with Service("-w", 1, "-r", 0, "-f", "service_ops:predict_in_trouble") as service:
        with Clients(service) as clients:
            for _ in range(5):
                status, answer = service.predict(with_first(255))
                equal(status, 500)
                assert "signal 9" in answer["error"].lower() or "sigkill" in answer["error"].lower(), answer
                clients.answer_more(20)


@test
def exceptions_and_deadlines_have_their_codes():
    with Service("-w", 2, "-d", 300, "-f", "service_ops:predict_in_trouble") as service:
        status, answer = service.predict(with_first(253))
        equal(status, 500)
        assert "an image of ill will" in answer["error"], answer
        with Clients(service) as clients:
            pass
        equal(service.predict(with_first(254))[0], 504)
        equal(service.predict(GOOD)[0], 200)


@test
def a_successor_takes_over_without_a_request_lost():
    with Service("-w", 1) as service:
        with Clients(service) as clients:
            clients.answer_more(50)
            for _ in range(2):
                pid = service.health()["pid"]
                os.kill(pid, signal.SIGHUP)
                wait_until(lambda: not is_running(pid) or clients.problems(), "the predecessor ends")
                equal(clients.problems(), [])
                service.pids.add(service.health()["pid"])
                clients.answer_more(50)


@test
def a_successor_that_cannot_start_leaves_the_old_one_serving():
    with Service("-w", 1) as service:
        pid = service.health()["pid"]
        with Clients(service) as clients:
            for child in range(2):
                before = set(all_children(pid))
                os.kill(pid, signal.SIGHUP)
                new = []

                def appeared():
                    new[:] = set(all_children(pid)) - before
                    return bool(new)
                wait_until(appeared, "a successor is started")
                os.kill(new[0], signal.SIGKILL)
                wait_until(lambda: new[0] not in all_children(pid), "its end is noticed")
                clients.answer_more(20)
        equal(service.health()["pid"], pid)


@test
def one_that_stops_answers_what_it_has():
    with Service("-w", 1, "-f", "service_ops:predict_in_trouble", "-d", 1000) as service:
        pid = service.health()["pid"]
        late = []
        thread = threading.Thread(target=lambda: late.append(service.predict(with_first(254))[0]))
        thread.start()
        wait_until(lambda: service.health()["busy"] == 1, "the call runs")
        os.kill(pid, signal.SIGTERM)
        thread.join(LIMIT_S)
        equal(late, [504])
        service.process.wait(LIMIT_S)
        service.health = lambda: {"pid": pid}


NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\d+(?:\.\d+)?)")


def parse_metrics(text):
    """The exposition format, with nothing in it that need not be: {name: (type, {labels: value})}."""
    families, current = {}, None
    assert text.endswith("\n"), text[-80:]
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            current, described = re.fullmatch(rf"# HELP ({NAME}) (\S.*)", line).groups()
            assert current not in families, f"twice: {current}"
            families[current] = [None, {}]
        elif line.startswith("# TYPE "):
            name, kind = re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|histogram)", line).groups()
            equal((name, families[name]), (current, [None, {}]), line)
            families[name][0] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, f"no sample: {line!r}"
            name, labels = found.group(1), tuple(re.findall(LABEL, found.group(2) or ""))
            kind, samples = families[current]
            allowed = [current + end for end in ("_bucket", "_sum", "_count")] if kind == "histogram" else [current]
            assert kind and name in allowed, line
            assert kind != "counter" or name.endswith("_total"), line
            key = name, labels
            assert key not in samples, f"twice: {line}"
            samples[key] = float(found.group(found.lastindex))
    for name, (kind, samples) in families.items():
        assert samples, f"nothing of {name}"
        if kind == "histogram":
            check_histogram(name, samples)
    return {key: value for _, samples in families.values() for key, value in samples.items()}


def check_histogram(name, samples):
    buckets = [(dict(labels)["le"], value) for (part, labels), value in samples.items() if part == name + "_bucket"]
    limits = [float(limit.replace("+Inf", "inf")) for limit, _ in buckets]
    values = [value for _, value in buckets]
    equal(limits, sorted(set(limits)))
    equal(values, sorted(values))
    equal((buckets[-1][0], values[-1]), ("+Inf", samples[name + "_count", ()]))
    assert samples[name + "_sum", ()] >= 0


def ask_some(service, count):
    with Clients(service) as clients:
        clients.answer_more(count)


@test
def metrics_are_as_prometheus_wants_them():
    with Service("-w", 2, "-b", 1, "-f", "service_ops:predict_in_trouble", "-r", 0) as service:
        ask_some(service, 50)
        equal(service.predict(with_first(253))[0], 500)
        equal(service.predict(with_first(255))[0], 500)
        metrics = parse_metrics(service.metrics())
        calls = metrics["pycrew_calls_total", (("outcome", "returned"),)]
        assert calls >= 50, metrics
        equal(metrics["pycrew_calls_total", (("outcome", "raised"),)], 1)
        equal(metrics["pycrew_calls_total", (("outcome", "died"),)], 1)
        counted = metrics["pycrew_call_seconds_count", ()]
        assert calls / 3 <= counted <= calls * 3 + 64, (calls, counted)  # it is sampled
        ask_some(service, 50)
        later = parse_metrics(service.metrics())
        assert set(later) == set(metrics)
        for (name, labels), value in metrics.items():
            if name.endswith(("_total", "_count", "_bucket", "_sum")):
                assert later[name, labels] >= value, (name, labels, value, later[name, labels])


@test
def promtool_has_nothing_to_say_against_the_metrics():
    tool = shutil.which("promtool")
    if not tool:
        raise Skip("promtool (prometheus) is not installed")
    with Service("-w", 2) as service:
        ask_some(service, 20)
        told = subprocess.run([tool, "check", "metrics"], input=service.metrics(), capture_output=True, text=True,
                              timeout=LIMIT_S)
        equal((told.returncode, told.stdout + told.stderr), (0, ""))


@test
def prometheus_clients_parser_reads_the_metrics():
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise Skip("python3-prometheus-client is not installed")
    with Service("-w", 2) as service:
        ask_some(service, 20)
        text = service.metrics()
        read = {(s.name, tuple(s.labels.items())): s.value
                for family in text_string_to_metric_families(text) for s in family.samples}
        equal(read, parse_metrics(text))


def free_port():
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return at.getsockname()[1]


@test
def prometheus_scrapes_the_service():
    program = shutil.which("prometheus")
    if not program:
        raise Skip("prometheus is not installed")
    with Service("-w", 2) as service, tempfile.TemporaryDirectory() as folder:
        ask_some(service, 20)
        with open(os.path.join(folder, "config.yml"), "w") as file:
            file.write("scrape_configs:\n- job_name: service\n  scrape_interval: 1s\n  static_configs:\n"
                       f"  - targets: ['127.0.0.1:{service.port}']\n")
        port = free_port()
        prometheus = subprocess.Popen([program, f"--config.file={folder}/config.yml", f"--storage.tsdb.path={folder}/data",
                                       f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def value(query):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query=" +
                                            urllib.parse.quote(query), timeout=LIMIT_S) as answer:
                    found = json.load(answer)["data"]["result"]
            except OSError:  # not up yet
                return None
            return float(found[0]["value"][1]) if found else None
        try:
            wait_until(lambda: value('pycrew_calls_total{outcome="returned"}'), "prometheus has scraped it")
            equal(value("up"), 1)
            median = value("histogram_quantile(0.5, pycrew_call_seconds_bucket)")
            assert 0 < median < 10, median
        finally:
            prometheus.terminate()
            prometheus.wait(LIMIT_S)


if not os.access(SERVICE, os.X_OK):
    print("1..0 # SKIP built without libevent")
elif service_ops is None:
    print("1..0 # SKIP scikit-learn is not installed")
else:
    cli_tap.main()
