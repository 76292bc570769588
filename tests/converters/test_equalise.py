"""Channels made louder and undone: the same function, and a better int8 one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.divergence import run_columns
from edgekd_converters.equalise import equalise
from edgekd_converters.graph import Graph
from edgekd_converters.judge import Judge
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.optimise import QuantizeOptions, make_int8
from edgekd_converters.quantize import quantize_int8

Net = Callable[[Any], Any]


def depthwise(keras: Any) -> Any:
    """Two blocks of MobileNet, a residual one the second, down to dense layers."""
    layers = keras.layers
    image = keras.Input((12, 12, 3), name="x")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = layers.Conv2D(8, 1)(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(layers.Conv2D(16, 1, activation="relu6")(x))
    x = layers.Add()([x, layers.Conv2D(8, 1)(y)])
    x = layers.Concatenate()([x, layers.Conv2D(4, 1, activation="relu")(x)])
    x = layers.Flatten()(layers.ZeroPadding2D()(layers.MaxPooling2D()(x)))
    return keras.Model(image, layers.Dense(5, name="scores")(layers.Dense(12, activation="relu")(x)))


def gated(keras: Any) -> Any:
    """Groups, slopes, a transposed convolution, squeeze and excitation, several channels from one."""
    layers = keras.layers
    image = keras.Input((12, 12, 4), name="x")
    x = layers.Conv2D(8, 3, groups=2)(image)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(x)
    x = layers.LeakyReLU()(layers.Conv2DTranspose(6, 2, strides=2)(x))
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    squeezed = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    x = x * layers.Reshape((1, 1, 6))(layers.Dense(6, activation="sigmoid")(squeezed))
    x = layers.AveragePooling2D(2)(layers.DepthwiseConv2D(3, depth_multiplier=2)(x))
    return keras.Model(image, layers.Conv2D(5, 1, name="y")(x))


def transformer(keras: Any) -> Any:
    """Normalised before attention and before the dense layers."""
    layers = keras.layers
    x = tokens = keras.Input((10, 16), name="x")
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8)(y, y)
    x = x + layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x)))
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(5, name="scores")(pooled))


@pytest.fixture(params=[depthwise, gated, transformer])
def uneven(request: pytest.FixtureRequest, keras: Any) -> Graph:
    """With channels of very different sizes."""
    keras.utils.set_random_seed(7)
    model, rng = request.param(keras), np.random.default_rng(7)
    for weights in model.trainable_variables:
        weights.assign(weights * np.exp(rng.normal(size=weights.shape[-1])))
    return condition(convert_keras(model))


@pytest.fixture
def columns(uneven: Graph) -> Columns:
    shape = uneven.inputs[0].shape[1:]
    return {"x": np.random.default_rng(8).normal(size=(120, *shape)).astype(np.float32)}


def answers(graph: Graph, columns: Columns) -> npt.NDArray[np.float64]:
    (made,) = run_columns(graph, columns).values()
    return made


def constants(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    return {t.name: graph.constant(t) for op in graph.main for t in op.inputs if t.is_constant}


def test_the_function_stays(uneven: Graph, columns: Columns) -> None:
    level = equalise(uneven, columns)
    wanted, got = answers(uneven, columns), answers(level, columns)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    before, after = constants(uneven), constants(level)
    changed = [name for name in before if not np.array_equal(before[name], after.get(name, ()))]
    assert len(changed) > 3
    assert [op.name for op in level.main] == [op.name for op in uneven.main]


def test_no_range_grows(uneven: Graph, columns: Columns) -> None:
    before, after = (calibrate_minmax(graph, feeds(columns)) for graph in (uneven, equalise(uneven, columns)))
    for name, (low, high) in before.items():
        assert after[name][0] >= low - 1e-4 * (high - low)
        assert after[name][1] <= high + 1e-4 * (high - low)


def test_int8_comes_nearer(uneven: Graph, columns: Columns) -> None:
    judge, level = Judge(uneven, columns), equalise(uneven, columns)
    before, after = (
        judge.distance(quantize_int8(graph, calibrate_minmax(graph, feeds(columns)))) for graph in (uneven, level)
    )
    assert after < 0.9 * before


def test_what_is_even_stays_as_it_is(keras: Any) -> None:
    """A sigmoid lets nothing through; and nothing is undone behind the last layer."""
    x = keras.Input((6,), name="x")
    graph = convert_keras(keras.Model(x, keras.layers.Dense(3)(keras.layers.Dense(4, activation="sigmoid")(x))))
    assert equalise(graph, {"x": np.ones((20, 6), np.float32)}) is graph


def test_is_tried_unless_told_otherwise(keras: Any) -> None:
    """One channel is a thousandth of the other, and all that the answer hangs on."""
    x = keras.Input((2,), name="x")
    model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(2, activation="relu")(x)))
    model.set_weights([np.diag([1, 1e-3]), np.zeros(2), np.array([[1e-3], [1e3]]), np.zeros(1)])
    columns = {"x": np.random.default_rng(0).uniform(size=(200, 2)).astype(np.float32)}
    graph = convert_keras(model)
    with_it, without = (make_int8(graph, columns, QuantizeOptions(equalise=wanted)) for wanted in (True, False))
    assert "equalisation" in with_it.kept
    assert with_it.unrounded is not graph is with_it.float_graph
    assert "equalisation" not in {attempt.name for attempt in without.attempts}
    judge = Judge(graph, columns)
    assert judge.distance(with_it.int8_graph) < 0.1 * judge.distance(without.int8_graph)
