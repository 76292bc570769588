"""Every op in TensorFlow against the LiteRT interpreter, alone in a graph, with generated shapes and options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.converters import op_cases_axes, op_cases_values, op_cases_windows
from tests.converters.one_op import Array, build

from edgekd_converters.graph import Graph
from edgekd_converters.observe import Observer
from edgekd_converters.ops.lazy import tf
from edgekd_converters.ops.table import TABLE, channels_of
from edgekd_converters.program import Program

CASES = {**op_cases_values.CASES, **op_cases_windows.CASES, **op_cases_axes.CASES}
FLAT = {
    *("FLOOR", "CEIL", "ROUND", "FLOOR_DIV", "ZEROS_LIKE", "ARG_MAX", "ARG_MIN", "REDUCE_ANY", "REDUCE_ALL"),
    *("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "SHAPE", "RANK", "RANGE", "CAST"),
    *("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT", "ONE_HOT"),
}
"""No gradient passes through these, or not always."""
SAME_FOR_ALL = {"SHAPE", "RANK", "RANGE"}
"""Their values do not depend on the samples, so there is only one of them."""
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
"""To shrink a failure takes minutes here; a case says all by itself."""


def test_every_row_has_cases() -> None:
    assert set(CASES) == set(TABLE)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data(), samples=st.integers(1, 3), seed=st.integers(0, 99))
def test_an_op_equals_the_interpreter(name: str, data: Any, samples: int, seed: int) -> None:
    case = CASES[name](data.draw)
    graph = build(name, case)
    fed = [case.sample(np.random.default_rng((seed, i))) for i in range(samples)]
    program = Program(graph)
    feeds = {key: tf.constant(np.concatenate([np.atleast_1d(one[key]) for one in fed])) for key in fed[0]}
    weights = {t.index: tf.constant(graph.constant(t)) for t in graph.tensors if t.is_constant and t.dtype == "FLOAT32"}
    sources = [value for value in (*feeds.values(), *weights.values()) if value.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = program.outputs(program.run(feeds, weights))
        loss = sum(tf.reduce_sum(y * y) for y in outputs.values() if y.dtype.is_floating)
    alone = [_interpreted(graph, one) for one in fed]
    for key, value in outputs.items():
        expected = alone[0][key]
        if samples > 1 and name not in SAME_FOR_ALL:
            expected = np.concatenate([np.atleast_1d(one[key]) for one in alone])
        assert value.shape == expected.shape
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5)
    if name in FLAT or not tf.is_tensor(loss):
        return
    gradients = [gradient for gradient in tape.gradient(loss, sources) if gradient is not None]
    assert gradients
    for gradient in gradients:
        assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data(), samples=st.integers(1, 3))
def test_an_op_traced_equals_itself(name: str, data: Any, samples: int) -> None:
    """In a function that is traced every size must be known before anything runs."""
    case = CASES[name](data.draw)
    program = Program(build(name, case))
    fed = [case.sample(np.random.default_rng(i)) for i in range(samples)]
    feeds = {key: tf.constant(np.concatenate([np.atleast_1d(one[key]) for one in fed])) for key in fed[0]}
    shapes: dict[str, Any] = {}

    @tf.function(autograph=False)
    def traced(feeds: dict[str, Any]) -> dict[str, Any]:
        outputs = program.outputs(program.run(feeds))
        shapes.update({key: value.shape for key, value in outputs.items()})
        return outputs

    eager, late = program.outputs(program.run(feeds)), traced(feeds)
    assert shapes == {key: value.shape for key, value in eager.items()}
    for key, value in late.items():
        np.testing.assert_allclose(value, eager[key], rtol=1e-5, atol=1e-6)


def _interpreted(graph: Graph, sample: dict[str, Array]) -> dict[str, Array]:
    observer = Observer(graph)
    observer.run(sample)
    return observer.outputs()


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data())
def test_channels_pass_in_the_right_number(name: str, data: Any) -> None:
    """Every axis of every tensor is fixed or has a label for each position, whatever the shapes and options."""
    graph = build(name, CASES[name](data.draw))
    channels = channels_of(graph)
    assert not channels.notes
    for op in graph.main:
        for slot, tensor in enumerate(op.slots):
            if tensor is not None:
                _check_axes(channels.axes.get(channels.key(op, slot)), tensor.shape)
        for tensor in op.outputs:
            _check_axes(channels.axes[tensor.index], tensor.shape)
    assert not any(
        tensor.index == key for tensor in graph.outputs for group in channels.groups() for key, _ in group.places
    )


def _check_axes(axes: Any, shape: tuple[int, ...]) -> None:
    if axes is not None:
        assert len(axes) == len(shape)
        assert all(labels is None or len(labels) == size for labels, size in zip(axes, shape, strict=True))
