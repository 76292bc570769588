"""Graphs of other converters, in the form that the rest of the tool takes."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.converters.one_op import Case, Given, build, options
from tests.converters.reals import real_outputs

from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.load.tidy import with_flat_biases


def _with_bias(shape: tuple[int, ...]) -> Graph:
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    case = Case(options("FullyConnected"), (Given((2, 3)), weights, bias))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(build("FULLY_CONNECTED", case).content, 0))
    model.subgraphs[0].tensors[2].shape = np.array(shape, np.int32)
    return read_graph(write_model(model))


@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 1, 4)])
def test_a_bias_is_made_flat(shape: tuple[int, ...]) -> None:
    original = _with_bias(shape)
    flat = with_flat_biases(original)
    assert flat.main[0].inputs[2].shape == (4,)
    feeds = [{"x0": np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)}]
    np.testing.assert_array_equal(real_outputs(flat, feeds)["y0"], real_outputs(original, feeds)["y0"])


def test_a_graph_that_is_as_it_should_be_stays() -> None:
    graph = _with_bias((4,))
    assert with_flat_biases(graph) is graph
