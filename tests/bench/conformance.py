"""``make bench-conformance``: which architectures go the whole way from their own format to int8.

Every case runs in a process of its own with limits on time and memory. All of them together take hours; what is done
is kept and not done again, so the benchmark can be ended and started again at any time, and run in parts. The table
goes to ``docs/conformance.md``.

    python tests/bench/conformance.py --only keras,light --cases ResNet50,light_resnet50 --again
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import conformance_page
from common import ROOT, finish
from conformance_cases import FAMILIES
from conformance_records import Record, read, save

HERE = Path(__file__).parent
PAGE = ROOT / "docs/conformance.md"
NODE = "node"
NODES_AT_ONCE = 40
ASKED = {"keras": 0.95, "light": 1.0, "light-drawn": 1.0}


def main() -> None:
    options = arguments([*FAMILIES, NODE])
    cases = {family: one.names() for family, one in FAMILIES.items()}
    if not options.finished:
        todo = [
            (family, name)
            for family in options.only
            if family != NODE
            for name in chosen(family, cases[family], options)
        ]
        with ThreadPoolExecutor(options.jobs) as pool:
            for line in pool.map(lambda case: measure(case[0], case[1], options.seconds), todo):
                print(line, flush=True)
        if NODE in options.only:
            measure_nodes(options)
    records = {family: {name: read(family, name) for name in names} for family, names in cases.items()}
    nodes = node_records()
    PAGE.write_text(conformance_page.page(FAMILIES, records, nodes), encoding="utf-8")
    print("written:", PAGE)
    summarise(records, nodes)


def arguments(families: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=families, type=lambda text: text.split(","), help=", ".join(families))
    parser.add_argument("--cases", type=lambda text: text.split(","), help="names of cases; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time; default 1")
    parser.add_argument("--seconds", type=int, default=1200, help="for one case; default 1200")
    parser.add_argument("--again", action="store_true", help="do again what is done")
    parser.add_argument("--failed", action="store_true", help="do again what did not go the whole way")
    parser.add_argument("--stale", action="store_true", help="do again what was done with other code")
    parser.add_argument("--finished", action="store_true", help="write the page from what is done, do no more")
    options = parser.parse_args()
    if unknown := set(options.only) - set(families):
        parser.error(f"--only: {min(unknown)!r} is not one of {', '.join(families)}")
    return options


def chosen(family: str, names: list[str], options: argparse.Namespace) -> list[str]:
    """Those asked for that are still to be done."""

    def open_yet(name: str) -> bool:
        record = read(family, name)
        if record is None or options.again or (options.stale and record["stale"]):
            return True
        return bool(options.failed and not conformance_page.passes(record))

    return [name for name in names if (not options.cases or name in options.cases) and open_yet(name)]


def measure(family: str, name: str, seconds: int) -> str:
    """Run the case; one line on how it went."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgekd-conformance-") as folder:
        report, stderr = Path(folder) / "record.json", Path(folder) / "stderr.txt"
        command = [sys.executable, HERE / "conformance_case.py", family, name, report]
        with stderr.open("wb") as sink:
            ended = run_limited(command, seconds, {"TMPDIR": folder, "TF_CPP_MIN_LOG_LEVEL": "3"}, sink)
        results: Record = json.loads(report.read_text("utf-8")) if report.is_file() else {}
        if ended:
            said = stderr.read_text("utf-8", "replace").strip().splitlines()
            results["ended"] = " ".join(f"{ended}: {said[-1] if said and 'exit code' in ended else ''}".split())[:300]
    save(family, name, results | {"s": round(time.perf_counter() - start, 1)})
    return f"{family} {name}: {conformance_page.in_words(results)} ({time.perf_counter() - start:.0f} s)"


def run_limited(command: list[Any], seconds: int, environment: dict[str, str], sink: Any) -> str:
    """How it ended, if not well. Its temporary files are below the caller's folder, and go with it."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"given up after {seconds} s"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else ""


def measure_nodes(options: argparse.Namespace) -> None:
    import conformance_nodes

    todo = chosen(NODE, conformance_nodes.names(), options)
    program, environment = HERE / "conformance_nodes.py", {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    parts = [todo[start : start + NODES_AT_ONCE] for start in range(0, len(todo), NODES_AT_ONCE)]
    with ThreadPoolExecutor(options.jobs) as pool:  # each in a new process, lest what leaks adds up
        for done in pool.map(lambda part: subprocess.run([sys.executable, program, *part], env=environment), parts):
            done.check_returncode()


def node_records() -> dict[str, tuple[str, Record | None]]:
    """Name → (op, record)."""
    import conformance_nodes

    return {name: (conformance_nodes.op_of(name), read(NODE, name)) for name in conformance_nodes.names()}


def summarise(records: dict[str, dict[str, Record | None]], nodes: dict[str, tuple[str, Record | None]]) -> None:
    """End with exit code 1 if what was asked for is not met."""
    rows, result, met = [], {}, True
    for family, by_name in records.items():
        done = [record for record in by_name.values() if record]
        whole = sum(conformance_page.passes(record) for record in done)
        asked = ASKED.get(family)
        verdict = ""
        if asked is not None:
            reached = whole >= asked * len(by_name)
            met &= reached
            verdict = f"≥ {asked:.0%} {'met' if reached else 'MISSED'}"
        rows.append((family, str(len(by_name)), str(len(done)), str(whole), verdict))
        result[family] = {"cases": len(by_name), "done": len(done), "whole_way": whole}
    known = [record for _, record in nodes.values() if record]
    for side in ("ours", "plain"):
        passed = sum(record[side]["ok"] for record in known)
        rows.append((f"node tests, {side}", str(len(nodes)), str(len(known)), str(passed), ""))
        result[f"node_{side}"] = {"cases": len(nodes), "done": len(known), "pass": passed}
    finish("conformance", {"families": result, "met": met}, rows, ("", "cases", "done", "whole way", "asked"))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
