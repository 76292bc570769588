"""A conditioned graph computes what it computed before, and every architecture of the zoo becomes full int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.converters import op_cases_axes, op_cases_values, op_cases_windows
from tests.converters.one_op import Array, Case, Given, Maker, State, build, options
from tests.converters.reals import in_int8, one_op_feeds, real_outputs, relative_error
from tests.converters.zoo import ZOO, graph, samples

from edgekd_converters.condition import condition
from edgekd_converters.errors import NotIntegerError
from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.integer import integer_fraction, require_integer
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import feeds
from edgekd_converters.tflite_model import load_tflite
from edgekd_converters.unroll import MOST_STEPS

RESNET8 = Path(__file__).parents[3] / "shared/data/mlperf_tiny_resnet8/pretrainedResnet.tflite"
CASES: dict[str, Maker] = {**op_cases_values.CASES, **op_cases_windows.CASES, **op_cases_axes.CASES}
REWRITTEN = {"bert", "bert_by_hand", "bert_keras", "bert_keras_sigmoid", "lstm"}
LOOPS = {"lstm_while"}
generated = settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in LOOPS])
def test_every_architecture_becomes_int8(name: str) -> None:
    fed = list(feeds(samples(graph(name), 8, seed=6)))
    ready = condition(graph(name))
    assert (ready is not graph(name)) == (name in REWRITTEN)
    wanted = real_outputs(graph(name), fed)
    for output, value in real_outputs(ready, fed).items():
        np.testing.assert_allclose(value, wanted[output], rtol=0, atol=1e-5)
    int8 = in_int8(ready, fed)
    require_integer(int8)
    assert integer_fraction(int8) == 1
    assert relative_error(wanted, real_outputs(int8, fed)) < 0.1
    assert {tensor.name for op in ready.main for tensor in op.outputs} <= {tensor.name for tensor in int8.tensors}


def test_a_loop_is_refused_with_the_way_out() -> None:
    with pytest.raises(NotIntegerError, match=r"called int8: op \d+ WHILE .* is a loop .* build with unroll=True"):
        condition(graph("lstm_while"))


@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_the_way_out_of_a_loop(keras: Any, layer: str) -> None:
    keras.utils.set_random_seed(3)
    signal = keras.Input((3, 4), name="signal")
    states = getattr(keras.layers, layer)(6, unroll=True, return_sequences=True)(signal)
    unrolled = convert_keras(keras.Model(signal, getattr(keras.layers, layer)(5, unroll=True)(states)))
    fed = list(feeds(samples(unrolled, 20, seed=1)))
    assert relative_error(real_outputs(unrolled, fed), real_outputs(in_int8(unrolled, fed), fed)) < 0.1


def assert_same_and_close_in_int8(original: Graph, case: Case) -> None:
    fed = one_op_feeds(case)
    wanted, got = real_outputs(original, fed), real_outputs(condition(original), fed)
    for output, value in got.items():
        np.testing.assert_allclose(value, wanted[output], rtol=1e-5, atol=1e-5)
    int8 = in_int8(original, fed)
    require_integer(int8)
    assert relative_error(wanted, real_outputs(int8, fed)) < 0.1


@pytest.mark.parametrize("name", ["NEG", "SQUARE", "DIV"])
@generated
@given(data=st.data())
def test_an_op_without_kernel_becomes_a_product(name: str, data: Any) -> None:
    case = CASES[name](data.draw)
    original = build(name, case)
    if name == "DIV" and (case.outputs != ("float32",) or not original.main[0].inputs[1].is_constant):
        assert condition(original) is original
    else:
        assert [op.name for op in condition(original).main] == ["MUL"]
        assert_same_and_close_in_int8(original, case)


def test_a_division_by_zero_stays() -> None:
    original = build("DIV", Case(options("Div"), (Given((3,)), np.array([1, 0, 2], np.float32))))
    assert condition(original) is original


@generated
@given(data=st.data())
def test_a_sum_of_many_is_added_two_at_a_time(data: Any) -> None:
    case = CASES["ADD_N"](data.draw)
    assert [op.name for op in condition(build("ADD_N", case)).main] == ["ADD"] * (len(case.operands) - 1)
    assert_same_and_close_in_int8(build("ADD_N", case), case)


def test_a_clip_to_0_and_1_becomes_two_ops() -> None:
    case = Case(None, (Given((2, 3)),))
    original = build("RELU_0_TO_1", case)
    assert [op.name for op in condition(original).main] == ["RELU", "MINIMUM"]
    assert_same_and_close_in_int8(original, case)


@pytest.mark.parametrize(("beta", "alpha"), [(0.5, 0.3), (0.75, 0.3), (0.75, 1e-4), (1.0, 0.3)])
def test_local_response_normalisation_becomes_plain_ops(beta: float, alpha: float) -> None:
    stated = options("LocalResponseNormalization", radius=2, bias=1.5, alpha=alpha, beta=beta)
    case = Case(stated, (Given((1, 3, 3, 7)),))
    original = build("LOCAL_RESPONSE_NORMALIZATION", case)
    assert {op.name for op in condition(original).main} == {"MUL", "CONV_2D", "RSQRT"}
    assert_same_and_close_in_int8(original, case)


@pytest.mark.parametrize("stated", [{"beta": 0.6}, {"bias": 0.0}, {"alpha": -1.0}])
def test_local_response_normalisation_of_a_rarer_kind_stays(stated: dict[str, float]) -> None:
    usual = {"radius": 2, "bias": 1.0, "alpha": 0.1, "beta": 0.75}
    case = Case(options("LocalResponseNormalization", **{**usual, **stated}), (Given((1, 1, 1, 4), low=1),))
    rare = build("LOCAL_RESPONSE_NORMALIZATION", case)
    assert condition(rare) is rare


def _padded_maximum(
    tf: Any, to_tflite: Any, size: int, widths: Any, positive: bool = False, twice: bool = False
) -> Graph:
    def function(image: Any) -> Any:
        image = tf.nn.relu(image - 0.5) if positive else image
        padded = tf.pad(image, widths, constant_values=np.finfo(np.float32).min)
        most = tf.nn.max_pool2d(padded, size, 2, "VALID")
        return (most, padded) if twice else most

    return read_graph(to_tflite(function, ((1, 7, 8, 3), tf.float32)))


@pytest.mark.parametrize(("size", "before", "after"), [(3, 1, 1), (2, 1, 1), (5, 2, 1), (7, 3, 3), (3, 0, 1)])
@pytest.mark.parametrize("positive", [False, True])
def test_padding_before_a_maximum_has_a_scale(
    tf: Any, to_tflite: Any, size: int, before: int, after: int, positive: bool
) -> None:
    original = _padded_maximum(tf, to_tflite, size, [[0, 0], [before, after], [after, before], [0, 0]], positive)
    ready = condition(original)
    assert "PADV2" in {op.name for op in original.main}
    assert ("PAD" if positive else "MIRROR_PAD") in {op.name for op in ready.main}
    (name,) = ready.signature.inputs
    fed = list(feeds({name: np.random.default_rng(0).normal(-1, 1, (6, 7, 8, 3)).astype(np.float32)}))
    wanted = real_outputs(original, fed)
    for output, value in real_outputs(ready, fed).items():
        np.testing.assert_array_equal(value, wanted[output])
    assert relative_error(wanted, real_outputs(in_int8(original, fed), fed)) < 0.05


@pytest.mark.parametrize(("size", "width", "twice"), [(3, 2, False), (3, 1, True)])
def test_padding_that_reaches_too_far_or_is_seen_stays(
    tf: Any, to_tflite: Any, size: int, width: int, twice: bool
) -> None:
    original = _padded_maximum(tf, to_tflite, size, [[0, 0], [width, width], [0, 0], [0, 0]], twice=twice)
    assert condition(original) is original


@pytest.mark.parametrize("name", ["SPLIT", "SPLIT_V", "UNPACK"])
@generated
@given(data=st.data())
def test_parts_that_nothing_uses_are_not_made(name: str, data: Any) -> None:
    case = CASES[name](data.draw)
    whole = build(name, case)
    assert condition(whole) is whole
    used = sorted(data.draw(st.sets(st.integers(0, len(whole.outputs) - 1), min_size=1)))
    part = _with_outputs(whole, used)
    slices = ["STRIDED_SLICE"] * len(used)
    assert [op.name for op in condition(part).main] == ([name] if len(used) == len(whole.outputs) else slices)
    assert_same_and_close_in_int8(part, case)


def _with_outputs(whole: Graph, used: Sequence[int]) -> Graph:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(whole.content, 0))
    model.subgraphs[0].outputs = [whole.outputs[k].index for k in used]
    return read_graph(write_model(model))


@generated
@given(data=st.data())
def test_an_lstm_is_unrolled(data: Any) -> None:
    case = CASES["UNIDIRECTIONAL_SEQUENCE_LSTM"](data.draw)
    original = build("UNIDIRECTIONAL_SEQUENCE_LSTM", case)
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" not in {op.name for op in condition(original).main}
    assert_same_and_close_in_int8(original, case)


def _lstm(steps: int, peepholes: Sequence[Array | None] = (None, None, None), **stated: Any) -> Graph:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in [(2, 3)] * 4 + [(2, 2)] * 4 + [(2,)] * 4]
    state = State((1, 2))
    operands = (Given((1, steps, 3)), *weights[:8], *peepholes, *weights[8:], None, None, state, state, *[None] * 4)
    made = options("UnidirectionalSequenceLSTM", **{"fusedActivationFunction": 4, "cellClip": 0.0, **stated})
    return build("UNIDIRECTIONAL_SEQUENCE_LSTM", Case(made, operands))


def test_an_lstm_of_a_rarer_kind_or_with_too_many_steps_stays_and_is_refused() -> None:
    peepholes = [np.ones(2, np.float32)] * 3
    long = _lstm(MOST_STEPS + 1)
    for rare in (_lstm(4, peepholes), _lstm(4, fusedActivationFunction=1), long):
        assert condition(rare) is rare
    with pytest.raises(NotIntegerError, match=r"op \d UNIDIRECTIONAL_SEQUENCE_LSTM .* no integer form"):
        in_int8(long, [{"x0": np.zeros((1, MOST_STEPS + 1, 3), np.float32)}])


def test_a_cell_is_clipped_only_where_it_can_reach_the_bound() -> None:
    names = [op.name for op in condition(_lstm(5, cellClip=3.0)).main]
    assert (names.count("MINIMUM"), names.count("MAXIMUM")) == (2, 2)


def test_what_an_lstm_leaves_behind_is_dropped() -> None:
    original = _lstm(4)
    ready = condition(original)
    names = [tensor.name for tensor in ready.tensors]
    assert len(set(names)) == len(names)
    assert set(names) == {tensor.name for op in ready.main for tensor in (*op.inputs, *op.outputs)}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(ready.content, 0))
    filled = [number for number, buffer in enumerate(model.buffers) if buffer.data is not None and len(buffer.data)]
    assert set(filled) == {tensor.buffer for tensor in model.subgraphs[0].tensors} - {0}


def test_a_file_of_others_becomes_int8() -> None:
    if not RESNET8.is_file():
        pytest.skip(f"{RESNET8} is not here; this test needs the shared data beside the checkout")
    original = load_tflite(RESNET8)
    assert condition(original) is original
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 32, 32, 3)).astype(np.float32)
    fed = [{"input_1": image} for image in pixels]
    int8 = in_int8(original, fed)
    require_integer(int8)
    assert relative_error(real_outputs(original, fed), real_outputs(int8, fed)) < 0.2
