#!/usr/bin/env python3
"""Tables and plots of what bench.py has measured.

    report.py RESULTS.json [--out FOLDER] [--insert FILE.md]

Prints the tables; plots go to the folder as SVG (with Debian's python3-matplotlib). --insert puts tables and plots
into a Markdown file, between the lines <!-- results --> and <!-- end of results -->.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import statistics
import sys

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


# ---- what was measured, put together ----

def quantile(times, q):
    """Of a log-linear histogram: the middle of the bucket."""
    total, seen = sum(times.values()), 0
    for lower in sorted(times):
        seen += times[lower]
        if seen > q * total or seen == total:
            return lower + (1 << max(lower.bit_length() - 7, 0)) / 2 - 0.5


class Merged:
    """A peer, a workload, a way: all rounds."""

    def __init__(self):
        self.times, self.runs, self.said = collections.Counter(), [], None
        self.count = self.lost = self.kills = self.wall = 0

    def add(self, line):
        self.times.update({lower: count for lower, count in line.get("calls", [])})
        self.runs += line.get("runs", [])
        self.wall += sum(lower * count for lower, count in line.get("calls", []))
        self.wall += sum(line.get("runs", [])) * line.get("run", 0)
        self.count += line.get("count", 0)
        self.lost += line.get("lost", 0)
        self.kills += line.get("kills", 0)
        for word in ("wrong", "hung", "failed", "skipped"):
            if word in line:
                self.said = word

    def quantiles(self):
        return [quantile(self.times, q) for q in (0.5, 0.99, 0.999)] if self.times else None

    def per_call(self):
        return statistics.median(self.runs) if self.runs else None


def merge(results, part):
    """{(workload, peer, way, workers): Merged}"""
    merged = collections.defaultdict(Merged)
    for line in results["cells"]:
        if line["part"] == part:
            merged[line["cell"], line["peer"], line["way"], line["workers"]].add(line)
    return merged


def best_of(merged, workload, peer, workers):
    """The way in which many calls take the least: (time of a call, way, its runs), or None."""
    ways = [(cell.per_call(), way, cell.runs) for (w, p, way, n), cell in merged.items()
            if (w, p, n) == (workload, peer, workers) and cell.runs]
    return min(ways) if ways else None


# ---- tables ----

def time_text(ns):
    if ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.3g} ns"


def ratio_text(ratio):
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}" if ratio >= 0.001 else f"1/{1 / ratio:,.0f}"


def table(head, rows):
    """Markdown that can be read as it is."""
    rows = [head] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def called(results):
    return [peer for peer in results["peers"] if peer != "plain"]


def measured(results, part="calls"):
    names = {line["cell"] for line in results["cells"] if line["part"] == part}
    return [name for name in results["workloads"] if name in names]


def times_as_pycrew(results, title, value):
    """A row a peer, a column a workload: how many times as long as with pycrew. value(workload, peer)."""
    rows = []
    for peer in called(results):
        row = [results["peers"][peer]]
        for workload in measured(results):
            own, other = value(workload, "pycrew"), value(workload, peer)
            if other is None:
                row.append("-")
            elif own is None or peer == "pycrew":
                row.append(time_text(other))
            else:
                row.append(ratio_text(other / own))
        rows.append(row)
    return f"{title}\n\n" + table(["peer", *measured(results)], rows)


def summary(results):
    merged, workers = merge(results, "calls"), results["options"]["workers"]

    def single(workload, peer):
        cell = merged.get((workload, peer, "one", workers))
        return cell.quantiles()[0] if cell and cell.times else None

    def many(workload, peer):
        best = best_of(merged, workload, peer, workers)
        return best[0] if best else None

    return (times_as_pycrew(results, "**One call at a time**, medians: pycrew's time, and how many times as long the "
                                     "others take (below 1: they are faster).", single) + "\n" +
            times_as_pycrew(results, f"**Many calls at once**, {workers} workers, each peer in its fastest way, "
                                     "medians of time per call: the same.", many))


def workload_table(results, merged, workload):
    workers, rows = results["options"]["workers"], []
    for peer in called(results):
        cells = {way: cell for (w, p, way, n), cell in merged.items() if (w, p, n) == (workload, peer, workers)}
        one = cells.pop("one", Merged())
        best = best_of(merged, workload, peer, workers)
        single = [time_text(ns) for ns in one.quantiles()] if one.times else [one.said or "-"] * 3
        said = " ".join(f"{way}: {cell.said}" for way, cell in cells.items() if cell.said)
        many = [best[1], time_text(best[0]), f"{time_text(min(best[2]))} to {time_text(max(best[2]))}",
                f"{1e9 / best[0]:,.0f}"] if best else [said or "-", "-", "-", "-"]
        rows.append([results["peers"][peer], *single, *many])
    return f"**{workload}**: {results['workloads'][workload]}\n\n" + table(
        ["peer", "one: p50", "p99", "p99.9", "many: fastest way", "per call", "runs' range", "calls/s"], rows)


def sleep_table(results):
    merged = merge(results, "sleep")
    numbers = sorted({n for (_, _, _, n) in merged})
    rows = []
    for peer, title in results["peers"].items():
        row = [title]
        for n in numbers:
            best = best_of(merged, "sleep", peer, n)
            said = [cell.said for (_, p, _, m), cell in merged.items() if (p, m) == (peer, n) and cell.said]
            row.append(f"{1e9 / best[0]:,.0f}" if best else said[0] if said else "-")
        rows.append(row)
    return "**sleep(1 ms)**, calls per second by number of workers\n\n" + table(
        ["peer", *[f"{n}" for n in numbers]], rows) if rows and numbers else ""


def start_table(results):
    rows = []
    for peer in called(results):
        starts = [line["first_result_ns"] for line in results["starts"]
                  if line["peer"] == peer and line["part"] == "start"]
        many = [line["first_result_ns"] for line in results["starts"]
                if line["peer"] == peer and line["part"] == "sleep" and line["workers"] >= 256]
        memory = [line["memory"] for line in results["memory"] if line["peer"] == peer]
        if starts or many or memory:
            rows.append([results["peers"][peer], time_text(statistics.median(starts) if starts else None),
                         time_text(many[0] if many else None), f"{memory[0] / 1024:.1f} MB" if memory else "-"])
    return "" if not rows else (
        "**Start and memory**: from the start to the first result, and the memory of each of 8 workers (PSS; of "
        "threads and interpreters: the process's, an eighth)\n\n" +
        table(["peer", f"{results['options']['workers']} workers", "256 workers", "a worker"], rows))


def kill_table(results):
    merged = merge(results, "kill")
    rows = []
    for (_, peer, way, _), cell in merged.items():
        quantiles = [time_text(ns) for ns in cell.quantiles()] if cell.times else ["-"] * 3
        rate = f"{1e9 * (cell.count - cell.lost) / cell.wall:,.0f}" if cell.wall else "-"
        said = cell.said or (f"{cell.lost:,} of {cell.count:,}" if cell.count else "-")
        rows.append([results["peers"][peer], way, *quantiles, rate, cell.kills, said])
    return ("**A worker killed each 100 ms**, 100 us of Python a call. What a peer loses is what its caller gets no "
            "result of.\n\n" + table(["peer", "way", "p50", "p99", "p99.9", "results/s", "kills", "calls lost"],
                                    rows)) if rows else ""


def about(results):
    machine, limits = results["machine"], results["limits"]
    load = " to ".join(f"{machine[key][0]:.1f}" for key in ("load_at_start", "load_at_end") if key in machine)
    lines = [f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_kb'] >> 20} GB, {machine['system']}, Linux "
             f"{machine['kernel']}; {machine['date']}; load {load}; {results['rounds']} rounds of all peers in turn, "
             f"{results['options']['seconds']} s a cell."]
    if limits:
        lines.append("The machine's own limits: " + ", ".join(
            f"{name.rsplit('_', 1)[0]} {value:,.{0 if value > 100 else 1}f} {name.rsplit('_', 1)[1]}"
            if value is not None else f"{name} -" for name, value in limits.items()) + ".")
    versions = {f"{name} {version}" for hello in results["versions"].values()
                for name, version in hello.items() if name != "pid" and name not in ("python", "server")}
    pythons = collections.defaultdict(list)
    for peer, hello in results["versions"].items():
        pythons[hello.get("python", "")].append(peer)
    servers = [f"{peer} {re.search(r'[0-9][^ )]*', hello['server']).group()}"
               for peer, hello in results["versions"].items() if "server" in hello]
    lines.append("Versions: " + ", ".join(sorted(versions) + servers) + "; " + "; ".join(
        f"CPython {version} ({', '.join(peers)})" for version, peers in pythons.items() if version) + ".")
    for name, why in results["missing"].items():
        lines.append(f"Left out: {name}, {why}.")
    if results["cut"]:
        lines.append("No time was left for: " + ", ".join(f"{part} of {peer}" for part, peer in results["cut"]) + ".")
    for line in results["wrong"]:
        lines.append(f"WRONG: {line['peer']}: {line['wrong']}")
    return "\n\n".join(lines) + "\n"


def tables(results):
    parts = [about(results)]
    if measured(results):
        merged = merge(results, "calls")
        parts += [summary(results)] + [workload_table(results, merged, w) for w in measured(results)]
    return "\n".join(part for part in parts + [sleep_table(results), start_table(results), kill_table(results)]
                     if part)


# ---- plots ----

def plots(results, out):
    """Names of the SVG files written; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    import matplotlib.pyplot as pyplot
    matplotlib.rcParams.update({"svg.hashsalt": "pycrew", "svg.fonttype": "none", "font.size": 8,
                                "axes.spines.top": False, "axes.spines.right": False,
                                "axes.prop_cycle": pyplot.cycler(color=[
                                    color for i, color in enumerate(pyplot.get_cmap("tab20").colors) if i != 6])})
    written = []
    for name, plot in (("single", plot_single), ("many", plot_many), ("tail", plot_tail), ("sleep", plot_sleep),
                       ("start", plot_start)):
        figure = plot(results, pyplot)
        if figure:
            figure.savefig(pathlib.Path(out) / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
            pyplot.close(figure)
            written.append(f"{name}.svg")
    return written


def color_of(peer):
    return "tab:red" if peer == "pycrew" else "tab:gray" if peer in ("inprocess", "plain") else "tab:blue"


def grid(results, pyplot, title, draw):
    """One plot a workload, a line a peer. draw(axes, y, workload, peer)."""
    names, peers = measured(results), called(results)
    if not names:
        return None
    rows = -(-len(names) // 3)
    figure, all_axes = pyplot.subplots(rows, 3, figsize=(12, 0.22 * rows * len(peers) + rows), squeeze=False)
    for axes in all_axes.flat[len(names):]:
        axes.remove()
    for axes, workload in zip(all_axes.flat, names):
        for y, peer in enumerate(peers):
            draw(axes, y, workload, peer)
        axes.set_xscale("log")
        axes.set_yticks(range(len(peers)), peers)
        axes.invert_yaxis()
        axes.set_title(f"{workload}: {results['workloads'][workload]}", fontsize=8)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def plot_single(results, pyplot):
    merged, workers = merge(results, "calls"), results["options"]["workers"]

    def draw(axes, y, workload, peer):
        cell = merged.get((workload, peer, "one", workers))
        if cell and cell.times:
            times = [ns / 1e3 for ns in cell.quantiles()]
            axes.plot([times[0], times[2]], [y, y], color=color_of(peer), linewidth=1)
            for time, marker in zip(times, "o|>"):
                axes.plot(time, y, marker, color=color_of(peer), markersize=5)

    return grid(results, pyplot, "One call at a time, microseconds: p50 (dot), p99 (bar), p99.9 (arrow)", draw)


def plot_many(results, pyplot):
    merged, workers = merge(results, "calls"), results["options"]["workers"]

    def draw(axes, y, workload, peer):
        best = best_of(merged, workload, peer, workers)
        if best:
            runs = [ns / 1e3 for ns in best[2]]
            axes.plot([min(runs), max(runs)], [y, y], color=color_of(peer), linewidth=1)
            axes.plot(best[0] / 1e3, y, "o", color=color_of(peer), markersize=5)

    return grid(results, pyplot, f"Many calls at once, {workers} workers, fastest way, microseconds a call: median, "
                                 "and from the fastest run to the slowest", draw)


def plot_tail(results, pyplot):
    merged, workers = merge(results, "calls"), results["options"]["workers"]
    workload = "add"
    if workload not in measured(results):
        return None
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for peer in called(results):
        cell = merged.get((workload, peer, "one", workers))
        if not cell or not cell.times:
            continue
        total, seen, x, y = sum(cell.times.values()), 0, [], []
        for lower in sorted(cell.times):
            x.append(lower / 1e3)
            y.append(1 - seen / total)
            seen += cell.times[lower]
        axes.step(x, y, where="post", label=peer, linewidth=2 if peer == "pycrew" else 1,
                  color="tab:red" if peer == "pycrew" else None)
    axes.set(xscale="log", yscale="log", xlabel="microseconds", ylabel="share of calls that took longer",
             title="One call of add at a time")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
    return figure


def plot_sleep(results, pyplot):
    merged = merge(results, "sleep")
    numbers = sorted({n for (_, _, _, n) in merged})
    if not numbers:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for peer in results["peers"]:
        rates = [(n, 1e9 / best[0]) for n in numbers if (best := best_of(merged, "sleep", peer, n))]
        if rates:
            axes.plot(*zip(*rates), "o-", label=peer, linewidth=2 if peer == "pycrew" else 1,
                      color={"pycrew": "tab:red", "plain": "black"}.get(peer))
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="calls per second", title="sleep(1 ms)")
    axes.set_xticks(numbers, numbers)
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
    return figure


def plot_start(results, pyplot):
    peers = [peer for peer in called(results) if peer in {line["peer"] for line in results["starts"]}]
    if not peers:
        return None
    figure, pair = pyplot.subplots(1, 2, figsize=(10, 0.22 * len(peers) + 1))
    for y, peer in enumerate(peers):
        starts = [line["first_result_ns"] / 1e6 for line in results["starts"]
                  if line["peer"] == peer and line["part"] == "start"]
        memory = [line["memory"] / 1024 for line in results["memory"] if line["peer"] == peer]
        for axes, values in zip(pair, (starts, memory)):
            if values:
                axes.barh(y, statistics.median(values), color=color_of(peer))
    for axes, title in zip(pair, ("start to the first result, ms", "memory of each of 8 workers (PSS), MB")):
        axes.set_yticks(range(len(peers)), peers)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_title(title, fontsize=8)
    figure.tight_layout()
    return figure


# ---- main ----

def insert(path, text):
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        sys.exit(f"{path} has no {BEGIN} and {END}")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description="Tables and plots of what bench.py has measured.")
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="plots go here (where the results are)")
    parser.add_argument("--insert", type=pathlib.Path, metavar="FILE", help="put all into this Markdown file")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    out = options.out or options.results.parent
    out.mkdir(parents=True, exist_ok=True)
    text, names = tables(results), plots(results, out)
    print(text)
    if options.insert:
        folder = os.path.relpath(out, options.insert.parent)
        pictures = "".join(f"![{re.sub('.svg$', '', name)}]({folder}/{name})\n\n" for name in names)
        insert(options.insert, text + "\n" + pictures.rstrip())


if __name__ == "__main__":
    main()
