"""Which layer is at fault: on a network with one layer poisoned by an outlier channel, and on a sound one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.sdk.poison import inner_convolution, poisoned

from edgekd.culprits import Culprit, find_culprits, named
from edgekd.layers import LayerError, layer_errors
from edgekd.verify import run_graph
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.quantize import quantize_int8
from edgekd_converters.simulate import Spared, rounded_layers, simulated

Found = tuple[list[LayerError], list[Culprit]]


@pytest.fixture(scope="module")
def sound(pictures: Any) -> Graph:
    return read_graph(pictures.model.read_bytes())


@pytest.fixture(scope="module")
def columns(pictures: Any) -> Columns:
    return {"image": pictures.images[:60]}


def quantised(graph: Graph, columns: Columns) -> Graph:
    return quantize_int8(graph, calibrate_minmax(graph, feeds(columns)))


def look(graph: Graph, columns: Columns) -> Found:
    int8 = quantised(graph, columns)
    layers = layer_errors(graph, int8, columns)
    return layers, find_culprits(graph, int8, columns, layers)


@pytest.fixture(scope="module")
def of_poisoned(sound: Graph, columns: Columns) -> Found:
    return look(poisoned(sound, inner_convolution(sound), 3000.0), columns)


def test_poison_changes_nothing_in_float(sound: Graph, columns: Columns) -> None:
    bad = poisoned(sound, inner_convolution(sound), 3000.0)
    np.testing.assert_allclose(run_graph(bad, columns), run_graph(sound, columns), atol=1e-4)


def test_a_poisoned_layer_is_named_first(sound: Graph, of_poisoned: Found) -> None:
    op = inner_convolution(sound)
    worst = of_poisoned[1][0]
    assert (worst.tensor, worst.op) == (op.outputs[0].name, "CONV_2D")
    assert worst.recovers > 0.9
    assert worst.from_output is not None
    assert worst.from_weights is not None
    assert worst.from_output > 0.9 > 0.1 > worst.from_weights
    assert f"{worst.op} {worst.tensor!r} (" in named([worst])
    assert "by its output's range" in named([worst])


def test_its_histogram_shows_the_outliers(of_poisoned: Found) -> None:
    worst = of_poisoned[1][0]
    assert worst.histogram is not None
    assert worst.grid is not None
    assert worst.histogram.low == 0
    assert worst.histogram.high == pytest.approx(worst.grid.high, rel=0.01)
    assert sum(worst.histogram.float) == sum(worst.histogram.int8) == 60 * 12 * 12 * 24
    assert worst.histogram.float[0] > 0.9 * sum(worst.histogram.float), "all but the outliers fall into one bin"


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_poisoned_weights_are_told_from_a_poisoned_output(sound: Graph, columns: Columns, place: int) -> None:
    """A layer whose int8 weights are wrong, wherever it stands."""
    op = [op for op in sound.main if op.name == "CONV_2D"][place]
    good = quantised(sound, columns)
    twin = next(one for one in good.main if one.outputs[0].name == op.outputs[0].name)
    weights = good.constant(twin.inputs[1]).copy()
    weights[: len(weights) // 2] //= 4
    bad = good.edited({twin.inputs[1].index: weights}, {})
    layers = layer_errors(sound, bad, columns)
    worst = find_culprits(sound, bad, columns, layers)[0]
    assert worst.tensor == op.outputs[0].name
    assert worst.from_weights is not None
    assert worst.from_weights > 0.8
    own = {layer.tensor: layer.own_sqnr_db for layer in layers if layer.own_sqnr_db is not None}
    assert min(own, key=lambda tensor: own[tensor]) == op.outputs[0].name


def test_a_sound_network_has_no_single_culprit(sound: Graph, columns: Columns) -> None:
    layers, culprits = look(sound, columns)
    assert all(one.recovers < 0.8 for one in culprits)
    assert sorted((one.recovers for one in culprits), reverse=True) == [one.recovers for one in culprits]
    assert all(layer.sqnr_db is None or layer.sqnr_db > 15 for layer in layers)
    assert all(0.95 < layer.cosine <= 1 and layer.saturation < 0.01 for layer in layers)
    assert {"INPUT", "CONV_2D", "FULLY_CONNECTED"} <= {layer.op for layer in layers}


def test_the_figures_of_a_layer(sound: Graph, columns: Columns) -> None:
    for layer in look(sound, columns)[0]:
        if layer.sqnr_db is not None:
            assert layer.sqnr_db == pytest.approx(-20 * np.log10(layer.relative_rmse))
        if layer.own_sqnr_db is not None and layer.sqnr_db is not None and layer.op == "CONV_2D":
            assert layer.own_sqnr_db > layer.sqnr_db - 1, "alone it errs no more than with what came to it"


def test_saturation_is_what_the_grid_cannot_hold(sound: Graph, columns: Columns) -> None:
    ranges = calibrate_minmax(sound, feeds(columns))
    name = inner_convolution(sound).outputs[0].name
    high = ranges[name][1] / 4
    int8 = quantize_int8(sound, {**ranges, name: (0.0, high)})
    (layer,) = (one for one in layer_errors(sound, int8, columns) if one.tensor == name)
    values = run_graph(_up_to(sound, name), columns)
    assert layer.saturation == pytest.approx((values > high * (1 + 0.5 / 255)).mean(), abs=1e-4)
    assert layer.saturation > 0.001


def _up_to(graph: Graph, tensor: str) -> Graph:
    """The graph with that tensor as its output."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    index = next(one.index for one in graph.tensors if one.name == tensor)
    model.subgraphs[0].outputs = np.array([index], np.int32)
    model.signatureDefs[0].outputs[0].tensorIndex = index
    return read_graph(write_model(model))


def test_the_simulation_is_the_int8_graph(sound: Graph, columns: Columns) -> None:
    int8 = quantised(sound, columns)
    step = next(iter(rounded_layers(sound, int8)[-1].grids.values())).scale
    got = run_graph(simulated(sound, rounded_layers(sound, int8), Spared()), columns)
    assert (np.abs(got - run_graph(int8, columns)) <= step * 1.01).mean() >= 0.99


def test_all_spared_is_the_float_graph(sound: Graph, columns: Columns) -> None:
    layers = rounded_layers(sound, quantised(sound, columns))
    names = [layer.tensor for layer in layers]
    got = run_graph(simulated(sound, layers, Spared(names, names)), columns)
    np.testing.assert_array_equal(got, run_graph(sound, columns))


def test_progress_is_told(sound: Graph, columns: Columns) -> None:
    int8, told = quantised(sound, columns), list[str]()
    note: Callable[[str], None] = told.append
    find_culprits(sound, int8, columns, layer_errors(sound, int8, columns), note)
    assert len(told) == len(rounded_layers(sound, int8))
