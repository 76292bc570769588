"""``make bench-quantise_match``: int8 outputs of the interpreter beside the trainer's simulation of them, in steps.

The models of ``make bench-quantise``, ranges by min-max, test samples.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np

from common import finish
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.divergence import run_columns
from edgekd_converters.fake_quant import FakeQuant
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.quantize import quantize_int8
from edgekd_converters.quiet import import_tensorflow
from quantise_models import SUBJECTS, Array, Subject

_LEAST, _CALIBRATION = 0.999, 200
_VALUES = 1 << 24  # activations of a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=list(SUBJECTS), type=lambda text: text.split(","))
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    import_tensorflow()
    records = {}
    for key in options.models:
        records[key] = match(SUBJECTS[key](), options.samples)
        print(key, records[key], flush=True)
    rows = [
        (
            key,
            f"{record['values']:,.0f}",
            *(f"{record[name]:.3%}" for name in ("exact", "within a step")),
            f"{record['most']:.0f}",
            "met" if record["within a step"] >= _LEAST else "MISSED",
        )
        for key, record in records.items()
    ]
    headings = ("", "values", "the same", "within a step", "most steps apart", f"asked: {_LEAST:.1%} within a step")
    finish("quantise_match", {"models": records}, rows, headings)
    sys.exit(0 if all(row[-1] == "met" for row in rows) else 1)


def match(subject: Subject, count: int) -> dict[str, float]:
    graph = condition(subject.graph)
    ranges = calibrate_minmax(graph, feeds({name: column[:_CALIBRATION] for name, column in subject.samples.items()}))
    samples = {name: column[:count] for name, column in subject.test.items()}
    wanted = run_columns(quantize_int8(graph, ranges), samples)
    rounding = FakeQuant(graph, ranges)
    made = _simulated(rounding, samples)
    low, high = rounding.ends[graph.results[0].index]
    name = next(iter(graph.signature.outputs))
    apart = np.abs(made - wanted[name]) / ((max(high, 0.0) - min(low, 0.0)) / 255)
    return {
        "values": apart.size,
        "exact": float((apart < 0.01).mean()),
        "within a step": float((apart < 1.01).mean()),
        "most": float(np.rint(apart.max())),
    }


def _simulated(rounding: FakeQuant, samples: Columns) -> Array:
    """The first output, ``(n, …)``; as many samples at once as memory allows."""
    name, parts = next(iter(rounding.graph.signature.outputs)), []
    size = max(1, _VALUES // _activations(rounding.graph))
    for start in range(0, len(next(iter(samples.values()))), size):
        values = rounding.run({key: column[start : start + size] for key, column in samples.items()})
        parts.append(rounding.outputs(values)[name].numpy())
    return np.concatenate(parts)


def _activations(graph: Graph) -> int:
    return sum(math.prod(tensor.shape) for op in graph.main for tensor in op.outputs)


if __name__ == "__main__":
    main()
