"""Random rows for a source, and a check that its graph gives what it gives."""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgekd_converters.graph import Graph
from edgekd_converters.load.source import Source


def rows_for(graph: Graph, count: int) -> dict[str, Any]:
    """``count`` rows for every input."""
    tensors = {tensor.name: tensor for tensor in graph.inputs}
    ends = {name: tensors[tensor] for name, tensor in graph.signature.inputs.items()}
    random = np.random.default_rng(0)
    return {name: random.normal(size=(count, *end.shape[1:])).astype(end.dtype.lower()) for name, end in ends.items()}


def assert_same(source: Source, count: int = 3) -> dict[str, Any]:
    """The source's outputs, which are not trivial and, row by row, those of the graph in a stock interpreter."""
    columns = rows_for(source.graph, count)
    wanted = source.run(columns)
    assert list(wanted) == list(source.graph.signature.outputs)
    assert list(columns) == list(source.graph.signature.inputs)
    for i in range(count):
        runner = Interpreter(model_content=source.graph.content).get_signature_runner(source.graph.signature.key)
        got = runner(**{name: column[i : i + 1] for name, column in columns.items()})
        for name, values in wanted.items():
            assert len(values) == count
            assert np.abs(values).max() > 1e-3
            np.testing.assert_allclose(got[name], values[i : i + 1], rtol=0, atol=1e-5)
    return wanted
