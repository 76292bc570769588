"""ONNX as it is written, run by onnxruntime, against the LiteRT interpreter: every op alone, then whole networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.converters import op_cases_axes, op_cases_values, op_cases_windows, zoo
from tests.converters.one_op import Array, build

from edgekd_converters.graph import Graph
from edgekd_converters.observe import Observer, feeds
from edgekd_converters.to_onnx import write_onnx

CASES = {**op_cases_values.CASES, **op_cases_windows.CASES, **op_cases_axes.CASES}
LOOPS = {"lstm_while"}
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


def run(content: bytes, feed: Mapping[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    wanted = [port.name for port in session.get_outputs()]
    given = {port.name for port in session.get_inputs()}
    assert given == set(feed)
    made = session.run(wanted, {name: np.asarray(value) for name, value in feed.items()})
    return dict(zip(wanted, made, strict=True))


def interpreted(graph: Graph, feed: Mapping[str, Array]) -> dict[str, Array]:
    observer = Observer(graph)
    observer.run(feed)
    return observer.outputs()


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data(), seed=st.integers(0, 99))
def test_an_op_equals_the_interpreter(name: str, data: Any, seed: int) -> None:
    case = CASES[name](data.draw)
    graph, rng = build(name, case), np.random.default_rng(seed)
    feed = case.sample(rng)
    made, wanted = run(write_onnx(graph), feed), interpreted(graph, feed)
    assert list(made) == list(wanted)
    for key, value in wanted.items():
        assert (made[key].shape, made[key].dtype) == (value.shape, value.dtype)
        np.testing.assert_allclose(made[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO) - LOOPS))
def test_an_architecture_equals_the_interpreter(name: str) -> None:
    graph = zoo.graph(name)
    content = write_onnx(graph)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    for feed in feeds(zoo.samples(graph, 2, seed=1)):
        made = run(content, feed)
        for key, value in interpreted(graph, feed).items():
            np.testing.assert_allclose(made[key], value, rtol=1e-3, atol=1e-4 * np.abs(value).max())
