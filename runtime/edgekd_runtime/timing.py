"""How long a bundle takes here, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekd_runtime.engine import Arrays, Engine
from edgekd_runtime.errors import RuntimeFault

Call = Callable[[int], object]
"""Does its work on the sample of this number."""


def raw_stages(engine: Engine, raw: Sequence[str | bytes]) -> dict[str, Call]:
    """Texts or files in turn: preprocessing, the bare invoke, the whole answer."""
    rows = [engine.preprocess(one) for one in raw]
    timed: dict[str, Call] = {
        "preprocess": lambda i: engine.preprocess(raw[i % len(raw)]),
        "invoke": lambda i: engine.invoke(rows[i % len(rows)]),
    }
    if engine.bundle.labels:
        return {**timed, "classify": lambda i: engine.classify(raw[i % len(raw)])}
    return {**timed, "infer": lambda i: engine.outputs_of(engine.preprocess(raw[i % len(raw)]))}


def tensor_stages(engine: Engine, tensors: Arrays) -> dict[str, Call]:
    """Rows of the model's inputs in turn: the bare invoke, and with quantising before and dequantising after it.

    Raises ``InputError`` where they do not fit, or there are none.
    """
    rows = min(column.shape[0] if column.ndim else 0 for column in tensors.values())
    samples = [{name: column[i : i + 1] for name, column in tensors.items()} for i in range(rows)]
    stored = [engine.store(sample) for sample in samples or [tensors]]  # without a row, it is refused here
    return {
        "invoke": lambda i: engine.invoke(stored[i % rows]),
        "infer": lambda i: engine.infer(samples[i % rows]),
    }


def answer_us(engine: Engine, runs: int = 5) -> float:
    """The least of a few whole answers: how large the model is."""
    call = whole_answer(engine)
    taken = []
    for i in range(runs):
        start = time.perf_counter()
        call(i)
        taken.append(time.perf_counter() - start)
    return min(taken) * 1e6


def whole_answer(engine: Engine) -> Call:
    """From input to answer on the bundle's golden samples, or the bare invoke on zeros where there are none."""
    try:
        stages = golden_stages(engine)
    except RuntimeFault:  # no Pillow to read golden pictures with
        stages = {}
    return list(stages.values())[-1] if stages else on_zeros(engine)


def golden_stages(engine: Engine) -> dict[str, Call]:
    """The stages on the bundle's golden samples in turn; none where it has none."""
    golden = engine.bundle.golden
    if golden is None:
        return {}
    raw: Sequence[str | bytes] = golden.texts or [one for one in golden.raw if one]
    return raw_stages(engine, raw) if raw else tensor_stages(engine, engine.golden_inputs())


def on_zeros(engine: Engine) -> Call:
    """The bare invoke, of a model of which no sample is known."""
    rows = [np.zeros(spec.shape, spec.dtype) for spec in engine.backend.inputs]
    return lambda i: engine.invoke(rows)


def time_stages(stages: Mapping[str, Call], runs: int) -> dict[str, dict[str, float]]:
    """Stage → percentiles in microseconds of ``runs`` calls, after a tenth as many to warm up."""
    return {stage: _time(call, runs) for stage, call in stages.items()}


def _time(call: Call, runs: int) -> dict[str, float]:
    for i in range(runs // 10):
        call(i)
    taken: list[int] = []
    for i in range(runs):
        start = time.perf_counter_ns()
        call(i)
        taken.append(time.perf_counter_ns() - start)
    taken.sort()
    return {f"p{p}": _percentile(taken, p) / 1000 for p in (50, 90, 99)}


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
