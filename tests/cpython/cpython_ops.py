"""CPython's own tests, module by module: run in a worker as a call, or by a plain interpreter as

    python3 cpython_ops.py MODULE FILE

which writes to FILE what the call returns: a JSON object of each method's outcome."""
import json
import os
import sys
import unittest


class Outcomes(unittest.TestResult):
    """By method: the worst of what its parts (setUp, the method, subtests, tearDown) came to."""
    ORDER = "ok", "skipped", "expected failure", "unexpected success", "failed", "error"

    def __init__(self):
        super().__init__()
        self.outcomes, self.texts = {}, {}

    def note(self, test, outcome, text=""):
        name = test.id()
        if self.ORDER.index(outcome) >= self.ORDER.index(self.outcomes.get(name, "ok")):
            self.outcomes[name] = outcome
            if text:
                self.texts[name] = text

    def startTest(self, test):
        super().startTest(test)
        progress(test.id())

    def addSuccess(self, test):
        self.note(test, "ok")

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test, error):
        self.note(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        self.note(test, "unexpected success")

    def addFailure(self, test, error):
        self.note(test, "failed", self._exc_info_to_string(error, test))

    def addError(self, test, error):
        self.note(test, "error", self._exc_info_to_string(error, test))

    def addSubTest(self, test, subtest, error):
        if error is not None:
            failed = issubclass(error[0], test.failureException)
            self.note(test, "failed" if failed else "error",
                      f"{subtest}\n{self._exc_info_to_string(error, test)}")


def progress(name):
    """For who wonders where it hangs."""
    path = os.environ.get("CPYTHON_PROGRESS")
    if path:
        with open(path, "w") as file:
            file.write(name + "\n")


def each_test(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each_test(test)
        else:
            yield test


def run_suite(name, without):
    """As libregrtest does it in its own process: the environment's changes saved and undone, the same
    settings. What matches one of `without` is left out."""
    from test import support
    from test.libregrtest.cmdline import _parse_args
    from test.libregrtest.setup import setup_tests
    from test.libregrtest.save_env import saved_test_environment
    from test.support import os_helper, threading_helper

    namespace = _parse_args(["-u", "all,-gui,-largefile,-audio,-network,-urlfetch"])
    setup_tests(namespace)
    support.use_resources = namespace.use_resources
    result = Outcomes()
    with os_helper.temp_cwd(quiet=True), saved_test_environment(name, 0, True, pgo=False):
        suite = unittest.defaultTestLoader.loadTestsFromName(name)
        tests = [test for test in each_test(suite) if not any(word in test.id() for word in without)]
        grouped = unittest.defaultTestLoader.suiteClass(tests)
        with threading_helper.threading_cleanup_context() if hasattr(
                threading_helper, "threading_cleanup_context") else threading_helper.wait_threads_exit(60):
            grouped.run(result)
        support.reap_children()
    return result


def run(name, without=""):
    result = run_suite(name, without.split())
    return json.dumps({"outcomes": result.outcomes, "texts": result.texts,
                       "loader": len(unittest.defaultTestLoader.errors)})


if __name__ == "__main__":
    with open(sys.argv[2], "w") as file:
        file.write(run(sys.argv[1], *sys.argv[3:4]))
