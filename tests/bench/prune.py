"""``make bench-prune``: MLPerf Tiny's ResNet8 with fewer and fewer multiply-accumulates, on CIFAR-10.

A point with the default steps takes up to an hour on two cores, the whole curve a night. What is finished is kept and
not done again: the benchmark can be ended and started again at any time.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

import cifar10
from common import RESULTS, SHARED, finish, need
from edgekd.cache import cache_root
from edgekd_converters.graph import Graph
from edgekd_converters.prune import PruneOptions
from edgekd_converters.recover import RecoverOptions
from edgekd_converters.tflite_model import load_tflite
from edgekd_targets.errors import TargetError
from instructions import count
from latency import latencies_us
from prune_curve import draw
from prune_points import Data, Job, Point, is_finished, measure

STEPS = 30_000
FEWER = (2.0, 4.0, 1.5, 3.0)
VARIANTS = {
    "labels": "ours, labels",
    "no-labels": "ours, no labels",
    "uniform": "uniform L1, labels",
    "lanes": "ours, labels, for time",
}
LANES = 16  # output channels that XNNPACK's kernels work on at a time, with AVX-512
ASKED = {
    "ours, labels": {2.0: 0.865, 4.0: 0.82},
    "ours, no labels": {2.0: 0.855, 4.0: 0.80},
}
ASKED_LATENCY = {2.0: 0.6}


def main() -> None:
    options = arguments()
    original = load_tflite(need(SHARED / "mlperf_tiny_resnet8") / "pretrainedResnet.tflite")
    data = read_data(original)
    whole = measure(original, Job("not pruned"), data)
    print(f"not pruned: float {whole.record['top1']['float']:.4f}, int8 {whole.record['top1']['int8']:.4f}")
    points: dict[tuple[str, float], Point] = {}
    for fewer in options.points:
        for variant in options.variants:
            job = make_job(variant, fewer, options)
            if options.finished and not is_finished(original, job):
                continue
            points[VARIANTS[variant], fewer] = measure(original, job, data)
            print(one_line(points[VARIANTS[variant], fewer]), flush=True)
    if not points:
        sys.exit("nothing is finished with these options")
    picture(whole, points, options.steps)
    met = report_accuracy(whole, points, options)
    met += report_speed(whole, points)
    sys.exit(0 if all(met) else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of recovery; default {STEPS:,}")
    parser.add_argument("--points", default=FEWER, type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--variants", default=list(VARIANTS), type=lambda text: text.split(","))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", action="store_true", help="report what is finished, do no more")
    options = parser.parse_args()
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"--variants: {sorted(unknown)[0]!r} is not one of {', '.join(VARIANTS)}")
    if min(options.points) <= 1:
        parser.error("--points: how many times fewer multiply-accumulates, each more than 1")
    return options


def read_data(graph: Graph) -> Data:
    train, train_labels, test, test_labels = cifar10.load(cache_root() / "cifar10")
    (name,) = graph.signature.inputs
    return Data(
        {name: train.astype(np.float32)},
        train_labels.astype(np.int32),
        {name: test.astype(np.float32)},
        test_labels.astype(np.int32),
    )


def make_job(variant: str, fewer: float, options: argparse.Namespace) -> Job:
    amount, seed = 1 - 1 / fewer, options.seed
    # By multiples of 8 a network as narrow as this one jumps from 1× to 2.4× at once.
    cut = PruneOptions(amount, multiple=4, seed=seed)
    if variant == "lanes":
        cut = replace(cut, multiple=LANES, blocks=1)  # which trials of 1,000 steps choose, but shorter ones do not
    if variant == "uniform":
        cut = replace(cut, uniform=True, importance="weight", refit=False)
    training = RecoverOptions(options.steps, alpha=0.7, augment=("flip", "crop"), seed=seed)
    return Job(f"{fewer:g}× {VARIANTS[variant]}", cut, training, labelled=variant != "no-labels")


def one_line(point: Point) -> str:
    top1, minutes = point.record["top1"], sum(point.record["seconds"].values()) / 60
    stale = " *measured by other code than is here now" if point.stale else ""
    return f"{point.name}: float {top1['float']:.4f}, int8 {top1['int8']:.4f}, {minutes:.1f} min{stale}"


def left(point: Point) -> float:
    """The share of multiply-accumulates."""
    before, after = point.record["macs"]
    return float(after / before)


def picture(whole: Point, points: dict[tuple[str, float], Point], steps: int) -> None:
    curves: dict[str, list[tuple[float, float]]] = {}
    for (variant, _), point in points.items():
        curves.setdefault(variant, []).append((left(point), point.record["top1"]["int8"]))
    asked = {variant: [(1 / fewer, top1) for fewer, top1 in wanted.items()] for variant, wanted in ASKED.items()}
    path = RESULTS / "prune.png"
    title = f"MLPerf Tiny ResNet8 on CIFAR-10, {steps:,} steps of recovery"
    draw(path, title, whole.record["top1"]["int8"], curves, asked)
    print("drawn:", path)


def report_accuracy(whole: Point, points: dict[tuple[str, float], Point], options: argparse.Namespace) -> list[bool]:
    rows, met = [row(whole, None)], []
    for (variant, fewer), point in sorted(points.items(), key=lambda item: item[0][::-1]):
        asked = ASKED.get(variant, {}).get(fewer)
        rows.append(row(point, asked))
        if asked is not None:
            met.append(point.record["top1"]["int8"] >= asked)
    records = [{**point.record, "stale": point.stale} for point in (whole, *points.values())]
    result = {"steps": options.steps, "seed": options.seed, "images": 10_000, "points": records, "met": all(met)}
    finish("prune", result, rows, ("top-1", "MACs", "weights", "float", "int8", "asked of int8", "min"))
    return met


def row(point: Point, asked: float | None) -> tuple[str, ...]:
    record = point.record
    verdict = "" if asked is None else f"≥ {asked:.3f} {'met' if record['top1']['int8'] >= asked else 'MISSED'}"
    return (
        point.name + ("*" if point.stale else ""),
        f"{record['macs'][1] / 1e6:.2f} M",
        f"{record['parameters'][1]:,}",
        f"{record['top1']['float']:.4f}",
        f"{record['top1']['int8']:.4f}",
        verdict,
        f"{sum(record['seconds'].values()) / 60:.1f}",
    )


def report_speed(whole: Point, points: dict[tuple[str, float], Point]) -> list[bool]:
    """Time on this machine and instructions on emulated boards, against the original, of one int8 file for every
    widths of a point. What is asked of a point is met by the fastest of them."""
    chosen: dict[tuple[float, str], Point] = {}
    for (_, fewer), point in points.items():
        chosen.setdefault((fewer, str(point.record["plan"]["widths"])), point)
    models = [whole.int8, *(point.int8 for point in chosen.values())]
    columns = {"µs here": latencies_us(models)}
    try:
        for board, counts in count(models).items():
            columns[f"{board} M"] = [one["instructions"] / 1e6 for one in counts]
    except TargetError as error:
        print(f"skipped: instructions on emulated boards ({error})")
    latency = columns["µs here"]
    share = [one / latency[0] for one in latency]
    fastest = {x: min(share[1 + i] for i, (y, _) in enumerate(chosen) if x == y) for x, _ in chosen}
    met = {x: fastest[x] <= asked for x, asked in ASKED_LATENCY.items() if x in fastest}
    rows = []
    for i, (fewer, point) in enumerate([(1.0, whole), *((x, point) for (x, _), point in chosen.items())]):
        asked = ASKED_LATENCY.get(fewer)
        verdict = "" if asked is None else f"≤ {asked} {'met' if share[i] <= asked else 'MISSED'}"
        figures = (f"{values[i]:.2f} ({values[i] / values[0]:.2f})" for values in columns.values())
        rows.append((point.name, f"{left(point):.2f}", *figures, verdict))
    result = {"models": [point.name for point in (whole, *chosen.values())], **columns, "met": met}
    finish("prune_speed", result, rows, ("int8, 1 thread", "MACs", *columns, "asked of µs"))
    return list(met.values())


if __name__ == "__main__":
    main()
