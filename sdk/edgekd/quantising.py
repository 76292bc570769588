"""Float graph → int8 on the samples of a conversion, and what the report says of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from edgekd.inputs import Inputs
from edgekd.options import ConvertOptions
from edgekd.stages import Stages
from edgekd_converters.condition import condition
from edgekd_converters.graph import Graph
from edgekd_converters.optimise import Quantized, QuantizeOptions, make_int8
from edgekd_converters.range_file import read_ranges


def quantize_options(options: ConvertOptions, stages: Stages) -> QuantizeOptions:
    """Those of the conversion with its file of ranges read, which may fail: before any work is done."""
    if options.ranges is None:
        return options.quantize
    with stages.stage("ranges"):
        return replace(options.quantize, ranges=read_ranges(options.ranges))


def quantise(graph: Graph, teacher: Graph, data: Inputs, options: QuantizeOptions, stages: Stages) -> Quantized:
    """``graph`` as it is after pruning and recovery, for which training with int8's rounding has the same teacher."""
    with stages.stage("quantise") as step:
        return make_int8(condition(graph), data.samples, options, step.advance, teacher if options.qat else None)


def describe_quantising(made: Quantized) -> dict[str, Any]:
    """Everything that was tried, and what was kept."""
    return {
        "kept": list(made.kept),
        "held_out": made.held_out,
        "attempts": [asdict(attempt) for attempt in made.attempts],
    }
