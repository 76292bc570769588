"""``make bench-server``: one client over HTTP keep-alive against the bare preprocessing and invoke, in one run."""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

from common import ROOT, RawClient, finish, percentile, serving
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine

EXAMPLE = ROOT / "examples" / "customer_service"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "build" / "demo" / "bundle" / "customer_service.edgekd"
    parser.add_argument("--bundle", type=Path, default=default, help="bundle to serve; 'make demo' writes the default")
    parser.add_argument("--texts", type=Path, default=EXAMPLE / "eval.csv", help="CSV with a column 'text' to ask")
    parser.add_argument("--requests", type=int, default=6000)
    options = parser.parse_args()
    if not options.bundle.is_file():
        parser.error(f"{options.bundle} is not there; run 'make demo' first")
    with options.texts.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    engine = Engine(load_bundle(options.bundle), threads=1)
    taken: dict[str, list[float]] = {"bare": [], "http": []}
    with serving(options.bundle, "--threads", "1") as (_, port):
        client = RawClient(port, f"/v1/models/{engine.bundle.name}:classify")
        requests = [client.request(text) for text in texts]
        for i in range(options.requests + 500):
            k = i % len(texts)
            # In turn, so that a machine whose speed drifts is fair to both.
            sample = {"bare": timed(lambda k=k: engine.invoke(engine.preprocess(texts[k])))}
            sample["http"] = timed(lambda k=k: client.send(requests[k]))
            if i >= 500:
                for name, seconds in sample.items():
                    taken[name].append(seconds * 1e6)
    figures = {name: {f"p{p}": percentile(values, p) for p in (50, 90, 99)} for name, values in taken.items()}
    ratio = figures["http"]["p50"] / figures["bare"]["p50"]
    rows = [(name, *(f"{value:.1f}" for value in figure.values())) for name, figure in figures.items()]
    rows.append(("http / bare", *(f"{figures['http'][p] / figures['bare'][p]:.2f}" for p in ("p50", "p90", "p99"))))
    finish(
        "server",
        {"unit": "us", "requests": options.requests, **figures, "ratio_p50": ratio},
        rows,
        ("µs", "p50", "p90", "p99"),
    )


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
