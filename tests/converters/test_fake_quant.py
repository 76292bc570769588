"""int8 in the trainer's simulation against int8 in the interpreter; what corrects and trains by it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_converters.bias_correction import correct_bias
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.divergence import run_columns
from edgekd_converters.fake_quant import FakeQuant, free_tensors
from edgekd_converters.graph import Graph
from edgekd_converters.judge import Judge
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.optimise import QuantizeOptions, make_int8
from edgekd_converters.qat import QatOptions, recover_int8
from edgekd_converters.quantize import quantize_int8

Rows = npt.NDArray[Any]


@pytest.fixture(scope="module")
def columns() -> Columns:
    return {"image": np.random.default_rng(4).normal(size=(120, 12, 12, 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def mobile(keras: Any) -> Graph:
    """Depthwise, with weights of its own kind in every channel."""
    keras.utils.set_random_seed(6)
    image = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu6")(image)
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = keras.layers.Add()([x, keras.layers.Conv2D(8, 1)(y)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    scores = keras.layers.Dense(5, activation="softmax", bias_initializer="normal", name="scores")
    return convert_keras(keras.Model(image, scores(x)))


@pytest.fixture(params=["conv_graph", "mobile"])
def net(request: pytest.FixtureRequest) -> Graph:
    graph: Graph = request.getfixturevalue(request.param)
    return graph


def test_outputs_match_the_interpreters_within_a_step(net: Graph, columns: Columns) -> None:
    ranges = calibrate_minmax(net, feeds(columns))
    int8 = quantize_int8(net, ranges)
    rounding = FakeQuant(net, ranges)
    made = rounding.outputs(rounding.run(columns))
    wanted = run_columns(int8, columns)
    (name,) = made
    low, high = rounding.ends[net.results[0].index]
    steps = np.abs(made[name].numpy() - wanted[name]) / ((high - low) / 255)
    assert (steps < 1.01).mean() >= 0.999
    plain = run_columns(net, columns)[name]
    assert (np.abs(plain - wanted[name]) / ((high - low) / 255) > 0.1).mean() > 0.5  # the measure can fail


def test_a_range_is_free_unless_a_kernel_sets_it(net: Graph) -> None:
    free = free_tensors(net)
    names = {op.outputs[0].index: op.name for op in net.main}
    assert {names[index] for index in set(names) - set(free)} <= {"SOFTMAX"}
    pooled = [index for index, name in names.items() if name == "MAX_POOL_2D"]
    assert all(free[index] != index for index in pooled)


def test_bias_correction_takes_a_shift_out(mobile: Graph, columns: Columns) -> None:
    """Hidden ranges that are cut off above shift every mean; most of what that does to the answers goes."""
    ends = {tensor.name for tensor in (*mobile.inputs, *mobile.outputs, mobile.main[-1].inputs[0])}
    ranges = {
        name: (low, high if name in ends else high / 3)
        for name, (low, high) in calibrate_minmax(mobile, feeds(columns)).items()
    }
    judge = Judge(mobile, columns)
    before, after = (quantize_int8(graph, ranges) for graph in (mobile, correct_bias(mobile, ranges, columns)))
    assert judge.distance(after) < 0.5 * judge.distance(before)


def test_training_brings_int8_nearer(net: Graph, columns: Columns) -> None:
    ranges = {name: (low / 2, high / 2) for name, (low, high) in calibrate_minmax(net, feeds(columns)).items()}
    notes: list[str] = []
    made = recover_int8(net, net, ranges, columns, QatOptions(60, batch=32, learning_rate=5e-3), notes.append)
    judge = Judge(net, columns)
    before, after = judge.distance(quantize_int8(net, ranges)), judge.distance(quantize_int8(made.graph, made.ranges))
    assert after < 0.7 * before
    assert len(notes) == 60
    assert made.ranges.keys() >= ranges.keys()


def test_a_step_that_does_not_help_is_not_kept(net: Graph, columns: Columns) -> None:
    ruinous = QatOptions(8, batch=8, learning_rate=0.1)
    made = make_int8(net, columns, QuantizeOptions("minmax", qat=ruinous))
    distances = {attempt.name: attempt.distance or 0.0 for attempt in made.attempts}
    assert "8 steps of training" not in made.kept
    assert distances["8 steps of training"] > distances[made.kept[-1]]


def test_sums_and_their_like_round_as_the_kernels_do(keras: Any) -> None:
    """Every op whose kernel rounds in its own way, one after the other."""
    rng = np.random.default_rng(5)
    given = keras.Input((6, 16), name="given")
    x = keras.layers.LayerNormalization(epsilon=1e-3)(keras.layers.Dense(16)(given) - 0.3)
    x = x * keras.layers.Dense(16)(given) + keras.ops.convert_to_tensor(rng.normal(size=16).astype(np.float32))
    net = condition(convert_keras(keras.Model(given, keras.layers.Dense(8, name="made")(x))))
    assert {"SQUARED_DIFFERENCE", "RSQRT", "MUL", "ADD"} <= {op.name for op in net.main}
    columns = {"given": rng.normal(size=(200, 6, 16)).astype(np.float32)}
    ranges = calibrate_minmax(net, feeds(columns))
    wanted = run_columns(quantize_int8(net, ranges), columns)
    rounding = FakeQuant(net, ranges)
    made = rounding.outputs(rounding.run(columns))
    low, high = rounding.ends[net.results[0].index]
    assert (np.abs(made["made"].numpy() - wanted["made"]) < 0.01 * (high - low) / 255).mean() >= 0.999
