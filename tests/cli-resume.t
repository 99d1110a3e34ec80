#!/bin/sh
'''':
exec "${PYTHON:-/usr/bin/python3}" "$0" "$@"
'''
# pycrew map --checkpoint: killed at any moment and resumed, the output is that of an undisturbed run.
#
#   PYCREW_KILLS=N   so many kills for each kind of map, at random moments (make check-kills: 100)
#   PYCREW_SEED=N    the same moments again, as far as the machine allows
import csv
import gzip
import json
import os
import random
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "py"))
from cli_tap import *

KILLS = int(os.environ.get("PYCREW_KILLS", 3))
SEED = int(os.environ.get("PYCREW_SEED", 0)) or random.randrange(1, 1 << 30)
CUT = os.path.join(BUILD, "tests", "cli", ".libs", "libcut.so")
chance = random.Random(SEED)


def numbers(count, start=0):
    return "".join(f"{i}\n" for i in range(start, start + count))


def output_of(name):
    data = read(name)
    return gzip.decompress(data) if name.endswith(".gz") else data


def errors_of(name):
    """What stands in an errors file, apart from its order: that of bad input is not that of results."""
    rows = [json.loads(line) for line in output_of(name).splitlines()]
    return sorted((e["index"], e["byte_offset"], e["line"], json.dumps(e["input"]), e["type"] or "", e["message"]) for e in rows)


def inode_of(name):
    try:
        return os.stat(name).st_ino
    except OSError:
        return None


def kill_at_random(process):
    """At any time since its start, or some checkpoints later. true: it was killed; false: it had ended."""
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 0.4))
    else:
        deadline = time.monotonic() + LIMIT_S
        for _ in range(chance.choice([1, 2, 3, 5, 9, 15])):
            before = inode_of("check")
            while inode_of("check") == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.0002)
        time.sleep(chance.choice([0, 0.001, 0.01]) * chance.random())
    process.kill()
    process.wait()
    return process.returncode == -signal.SIGKILL


def run_to_the_end(words, out, code, disturb, attempts, **options):
    """Resumes until it ends by itself. disturb(process) -> whether it was killed, for so many attempts."""
    killed = went_on = 0
    for attempt in range(10000):
        process = start(*words, "--checkpoint", "check", "--checkpoint-every", "1ms", "--resume", "--output", out, **options)
        if attempt < attempts and disturb(process):
            killed += 1
        ended = end(process)
        went_on += "going on behind" in ended.err and "going on behind 0 " not in ended.err
        if ended.code != -signal.SIGKILL:
            check(ended, code)
            return killed, went_on
    raise AssertionError("it does not come to an end")


def survives(words, out, *, unordered=False, errors=None, code=1, kills=KILLS):
    """Undisturbed once, then killed again and again."""
    files = [f"undisturbed-{out}", f"undisturbed-{errors}"]
    words = list(words) + ["-j", 2, "-q"]
    more = ["--errors", files[1]] if errors else []
    check(run(*words, *more, "--output", files[0], "--force"), code)
    killed = went_on = 0
    while killed < kills:
        for name in (out, errors, "check"):
            if name and os.path.exists(name):
                os.unlink(name)
        words_now = [word for word in words if word != "-q"] + (["--errors", errors] if errors else [])
        k, w = run_to_the_end(words_now, out, code, kill_at_random, min(kills - killed, 12))
        killed, went_on = killed + k, went_on + w
        got, expected = output_of(out), output_of(files[0])
        if unordered:
            got, expected = sorted(got.splitlines()), sorted(expected.splitlines())
        assert got == expected, f"seed {SEED}: not the output of an undisturbed run, after {killed} kills"
        if errors:
            equal(errors_of(errors), errors_of(files[1]), f"seed {SEED}")
        assert not os.path.exists("check.new"), "the new checkpoint is left"
    print(f"# {killed} kills, {went_on} runs went on from a checkpoint, seed {SEED}")
    assert went_on > 0 or killed < 10, "no run went on from where another was"


# ---- killed ----


@test
def results_in_order_survive_kills():
    lines = numbers(6000).splitlines()
    lines[3000] = "[no json"
    lines[100] = lines[5999] = "{"
    write("in.jsonl", "\ufeff" + "\n".join(lines) + "\n\n")
    survives(["map", ":steady", "in.jsonl"], "out.jsonl", errors="errors")


@test
def unordered_results_survive_kills():
    write("a.jsonl", numbers(3000))
    write("b.txt", numbers(3000, 3000).rstrip("\n"))
    survives(["map", "-u", "--index", "--with-input", ":steady", "a.jsonl", "b.txt"], "out.jsonl", errors="errors", unordered=True)


@test
def csv_survives_kills():
    with open("in.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["n", "text\nof two lines"])
        for i in range(4000):
            writer.writerow([i, "a\nb" if i % 3 == 0 else "c"])
            if i == 1700:
                file.write("1700\n")
    survives(["map", ":steady", "in.csv"], "out.csv", errors="errors")


@test
def packed_files_survive_kills():
    with gzip.open("in.jsonl.gz", "wt") as file:
        file.write(numbers(4000))
    survives(["map", ":steady", "in.jsonl.gz"], "out.csv.gz", errors="errors.gz")


@test
def whole_groups_survive_kills():
    lines = numbers(6000).splitlines()
    lines[5] = lines[2000] = "?"
    write("in.jsonl", "\n".join(lines))
    survives(["map", "--whole", 7, "--flatten", ":steady_list", "in.jsonl"], "out.jsonl", errors="errors")
    survives(["map", "--whole", 7, "-u", "--index", ":length", "in.jsonl"], "out.jsonl", unordered=True, kills=KILLS // 2)


@test
def records_that_fail_again_survive_kills():
    write("in.jsonl", numbers(3000))
    check(run("map", "-q", "--errors", "failed", ":fail", "in.jsonl"), 1, "")
    survives(["map", "--from-errors", "failed", "--index", "--whole", 3, "--flatten", ":echo"], "out.jsonl", errors="errors", code=0)


# ---- dead at each call ----


def dies_at_each_call(how):
    """Each write, sync, cut and rename of the command in turn is its last; then it is resumed."""
    write("in.jsonl", numbers(300))
    words = ["map", "-j", 1, "--errors", "errors", ":steady", "in.jsonl"]
    check(run("map", "-q", "--errors", "right-errors", ":steady", "in.jsonl", "--output", "right"), 1)
    deaths = last = 0
    for number in sorted(chance.sample(range(1, 40), 8)) if KILLS < 10 else range(1, 1000):
        for name in ("out", "errors", "check", "check.new"):
            if os.path.exists(name):
                os.unlink(name)
        run_one = [*words, "--output", "out", "--checkpoint", "check", "--checkpoint-every", "1ms", "--resume"]
        first = run(*run_one, env={**os.environ, "LD_PRELOAD": CUT, "CUT_AT": str(number), "CUT_HOW": how})
        last = first.code
        deaths += last == -signal.SIGKILL
        check(run(*run_one), 1)
        equal(read("out"), read("right"), f"dead at call {number}")
        equal(errors_of("errors"), errors_of("right-errors"), f"dead at call {number}")
        if last != -signal.SIGKILL:
            break
    print(f"# {deaths} deaths, seed {SEED}")
    assert deaths >= 4, f"it was to die at each call ({how}), and did {deaths} times"


if os.path.exists(CUT):

    @test
    def it_may_die_in_the_middle_of_each_write():
        dies_at_each_call("half")

    @test
    def the_power_may_go_before_each_call():
        dies_at_each_call("power")


# ---- stopped otherwise ----


@test
def an_interrupted_map_goes_on_where_it_was():
    write("in.jsonl", numbers(20_000))
    words = ["map", "-j", 2, "--checkpoint", "check", "--output", "out", ":steady", "in.jsonl"]
    process = start(*words)
    wait_until(lambda: os.path.exists("out") and os.path.getsize("out") > 0, "results")
    process.send_signal(signal.SIGINT)
    check(end(process), 130)
    lines = len(read("out").splitlines())
    state = json.loads(read("check"))
    unfinished = sum(last - first + 1 for first, last in state["unfinished"])
    equal((unfinished <= 1, state["ended"], state["output_size"]), (True, 0, os.path.getsize("out")))  # one was read ahead
    assert 0 < lines < 19_000, lines
    check(run(*words, "--resume"), 1, "", f"going on behind {state['read'] - unfinished} records")
    equal([json.loads(line)["n"] for line in read("out").splitlines()], [i for i in range(20_000) if i % 41 != 40])


@test
def a_second_interrupt_leaves_what_was_in_flight_to_the_next_run():
    write("in.jsonl", numbers(10))
    words = ["map", "-j", 2, "--checkpoint", "check", "--output", "out", ":wait_for_go", "in.jsonl"]
    process = start(*words, "--progress", "json")
    wait_until(lambda: os.path.exists("check"), "the first checkpoint")
    select.select([process.stderr], [], [], LIMIT_S)  # progress: it reads
    process.send_signal(signal.SIGINT)
    wait_until(lambda: b"in flight will be finished" in process.stderr.readline(), "the first interrupt to be seen")
    process.send_signal(signal.SIGINT)
    check(end(process), 130)
    write("go", "")
    check(run(*words, "--resume"), 0)
    equal(read("out").decode(), numbers(10))


@test
def a_halted_map_goes_on():
    write("in.jsonl", numbers(5000))
    words = ["map", "-j", 1, "--checkpoint", "check", "--output", "out", "--errors", "errors", "--resume", ":steady", "in.jsonl"]
    check(run(*words, "--halt", "now"), 5)
    check(run(*words, "--halt", "soon,fail=2"), 5)
    check(run(*words), 1, "", "121 of 5000 records failed")
    equal([json.loads(line)["n"] for line in read("out").splitlines()], [i for i in range(5000) if i % 41 != 40])
    equal([e[0] for e in errors_of("errors")], list(range(40, 5000, 41)))


@test
def workers_that_cannot_start_leave_their_records_to_the_next_run():
    write("in.jsonl", numbers(200))
    words = ["map", "-j", 1, "--checkpoint", "check", "--output", "out", "--errors", "errors", "--resume", ":die_on_seven", "in.jsonl"]
    check(run(*words, "--init", "cli_ops:init_once"), 3)  # the worker that follows on the dead one does not start
    check(run(*words), 1, "", "1 of 200 records failed")
    equal(read("out").decode(), numbers(7) + numbers(192, 8))
    equal([e[0] for e in errors_of("errors")], [7])


@test
def what_is_done_is_not_done_again():
    write("in.jsonl", numbers(50))
    words = ["map", "--checkpoint", "check", "--output", "out", ":steady", "in.jsonl"]
    check(run(*words), 1)
    before = os.stat("out")
    check(run(*words, "--resume"), 1, "", "check: all 50 records are done")
    after = os.stat("out")
    equal((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns))


@test
def files_as_records_are_resumed():
    for i in range(30):
        write(f"file{i:02}", "x" * i)
    files = sorted(os.listdir("."))
    words = ["map", "-j", 1, "--files", "--checkpoint", "check", "--output", "out", ":file_size", *files]
    check(run(*words), 0)
    text = read("check").decode()
    write("check", text.replace('"ended": 1', '"ended": 0').replace('"start_file": 30', '"start_file": 10')
          .replace('"start_number": 30', '"start_number": 10').replace('"read": 30', '"read": 10')
          .replace(f'"output_size": {os.path.getsize("out")}', '"output_size": 20').replace(
              f'"output_sum": {json.loads(text)["output_sum"]}', f'"output_sum": {sum_of(numbers(10))}'))
    check(run(*words, "--resume"), 0, "", "going on behind 10 records")
    equal(read("out").decode(), numbers(30))
    check(run(*words[:-1], "--resume"), 2, "", "the number of FILEs was 30, and is 29 now")
    check(run(*words[:-1], "file00", "--resume"), 2, "", "the sum of the FILEs' names was")


def sum_of(text):
    import zlib

    return zlib.crc32(text.encode())


# ---- refused ----


@test
def what_changed_is_named():
    write("in.jsonl", numbers(100))
    words = ["map", "--checkpoint", "check", "--output", "out", "--resume"]
    check(run(*words, ":echo", "in.jsonl"), 0)
    before = read("out"), read("check")
    for changed, text in [
        ([":kind", "in.jsonl"], 'the function was "cli_ops:echo", and is "cli_ops:kind" now'),
        (["--nan", "null", ":echo", "in.jsonl"], '--nan was "literal", and is "null" now'),
        (["-u", ":echo", "in.jsonl"], "--unordered was false, and is true now"),
        (["--whole", "2", ":echo", "in.jsonl"], "--whole was 0, and is 2 now"),
        (["--errors", "e", ":echo", "in.jsonl"], '--errors was null, and is "e" now'),
        (["-o", "csv", ":echo", "in.jsonl"], '--format was "jsonl", and is "csv" now'),
        ([":echo", "./in.jsonl"], 'file 1 was "in.jsonl", and is "./in.jsonl" now'),
        ([":echo", "in.jsonl", "in.jsonl"], "the number of FILEs was 1, and is 2 now"),
    ]:
        check(run(*words, *changed), 2, "", "check: cannot go on from it: " + text)
    check(run("map", "--checkpoint", "check", "--output", "other", "--resume", ":echo", "in.jsonl"), 2, "", '--output was "out", and is "other" now')
    when = os.stat("in.jsonl")
    os.utime("in.jsonl", ns=(0, when.st_mtime_ns + 1))
    check(run(*words, ":echo", "in.jsonl"), 2, "", "in.jsonl: its time of modification was")
    write("in.jsonl", numbers(100).replace("7", "8"))
    os.utime("in.jsonl", ns=(0, when.st_mtime_ns))
    check(run(*words, ":echo", "in.jsonl"), 2, "", "in.jsonl: the sum of its first 64 KiB was")
    write("in.jsonl", numbers(101))
    check(run(*words, ":echo", "in.jsonl"), 2, "", "in.jsonl: its size was 290, and is 294 now")
    equal((read("out"), read("check")), before)


@test
def an_output_that_changed_is_refused():
    write("in.jsonl", numbers(500))
    words = ["map", "-j", 1, "--checkpoint", "check", "--output", "out", "--resume", ":steady", "in.jsonl"]
    check(run(*words, "--halt", "now"), 5)
    good = read("out")
    for bad in (good[:-1], good[:-2] + b"?\n", b""):
        write("out", bad)
        check(run(*words), 2, "", "out: is not what it was when check was written")
        equal(read("out"), bad)
    os.unlink("out")
    check(run(*words), 2, "", "out: is not what it was")
    assert not os.path.exists("out"), "an empty output is left"
    write("out", good + b'{"n": 12' + b"0" * 30_000)  # more than all results
    check(run(*words, "-v"), 1, "", "30008 bytes behind the checkpoint are cut off")
    equal([json.loads(line)["n"] for line in read("out").splitlines()], [i for i in range(500) if i % 41 != 40])


@test
def what_cannot_be_resumed_is_refused_with_the_reason():
    write("in.jsonl", numbers(3))
    os.mkfifo("pipe.jsonl")
    words = ["map", ":echo", "in.jsonl"]
    check(run(*words, "--resume"), 2, "", "--resume goes on from a --checkpoint FILE")
    check(run(*words, "--checkpoint", "c"), 2, "", "--checkpoint needs --output FILE")
    check(run(*words, "--checkpoint", "c", "--output", "/dev/null"), 2, "", "/dev/null is no regular file")
    check(run("map", ":echo", "--checkpoint", "c", "--output", "o"), 2, "", "stdin cannot be read a second time")
    check(run("map", ":echo", "in.jsonl", "-", "--checkpoint", "c", "--output", "o"), 2, "", "stdin cannot be read")
    check(run("map", ":echo", "pipe.jsonl", "--checkpoint", "c", "--output", "o"), 2, "", "pipe.jsonl is no regular file")
    check(run(*words, "--checkpoint", "o", "--output", "o"), 2, "", "o cannot be the checkpoint and be written to")
    check(run(*words, "--checkpoint", "in.jsonl", "--output", "o", "--force"), 2, "", "in.jsonl: is input and checkpoint")
    check(run(*words, "--checkpoint", "c", "--output", "o", "--errors", "o"), 2, "", "cannot go to the same file")
    equal(sorted(os.listdir(".")), ["in.jsonl", "pipe.jsonl"])
    write("c", "{}")
    check(run(*words, "--checkpoint", "c", "--output", "o"), 2, "", "c exists; --resume goes on from it")
    check(run(*words, "--checkpoint", "c", "--output", "o", "--resume"), 2, "", "c: cannot go on from it: it is no checkpoint")
    check(run(*words, "--checkpoint", "c", "--output", "o", "--force"), 0)
    os.unlink("c")
    check(run(*words, "--checkpoint", "c", "--output", "o", "--resume"), 2, "", "o exists; --force overwrites it")
    equal(read("o").decode(), numbers(3))


@test
def two_at_once_do_not_write_one_file():
    write("in.jsonl", numbers(10))
    words = ["map", "--checkpoint", "check", "--output", "out", "--resume", ":wait_for_go", "in.jsonl"]
    process = start(*words)
    wait_until(lambda: os.path.exists("check"), "the first checkpoint")
    check(run(*words), 2, "", "out is being written by another pycrew map")
    write("go", "")
    check(end(process), 0)
    equal(read("out").decode(), numbers(10))


if __name__ == "__main__":
    main()
