"""How far an int8 graph's answers are from the float graph's, on samples that it was not made with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.divergence import divergences, is_scores, run_columns
from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.observe import Columns

_JUDGED = 0.98

Reals = npt.NDArray[np.float64]


class Judge:
    """Keeps the float graph's answers. Of a closing softmax the input counts: it tells more, and int8 has no tiny
    probabilities."""

    def __init__(self, graph: Graph, held_out: Columns) -> None:
        """``held_out``: samples by input name, ``(n, …)``."""
        self._samples = held_out
        self._wanted = run_columns(_unsaturated(graph), held_out)
        sizes = {tensor.shape for tensor in graph.inputs}
        self._copies = {name for name, one in zip(self._wanted, graph.results, strict=True) if one.shape in sizes}

    def distance(self, int8: Graph) -> float:
        """By sample, the KL divergence of a classifier's outputs, of others the squared error relative to the variance.

        The mean over all samples but the worst 2 %: a few broken ones shall not decide.
        """
        got = run_columns(_unsaturated(int8), self._samples)
        total = sum(self._distances(name, wanted, got[name]) for name, wanted in self._wanted.items())
        assert isinstance(total, np.ndarray)
        return float(np.sort(total)[: max(1, int(_JUDGED * len(total)))].mean())

    def _distances(self, name: str, wanted: Reals, got: Reals) -> Reals:
        """``(n,)``."""
        if name not in self._copies and is_scores(wanted):
            return divergences(wanted, got)
        squares: Reals = np.square(got - wanted).reshape(len(wanted), -1).mean(1) / max(float(wanted.var()), 1e-12)
        return squares

    def agreement(self, int8: Graph) -> float | None:
        """Share of samples on which the first output has the float graph's top-1; None for what is no classifier."""
        name, wanted = next(iter(self._wanted.items()))
        if name in self._copies or not is_scores(wanted):
            return None
        got = run_columns(_unsaturated(int8), self._samples)[name]
        return float((got.argmax(1) == wanted.argmax(1)).mean())


def _unsaturated(graph: Graph) -> Graph:
    """With the input of a closing softmax in the place of its output."""
    before = {op.outputs[0].index: op.inputs[0].index for op in graph.main if op.name == "SOFTMAX"}
    if not any(tensor.index in before for tensor in graph.outputs):
        return graph
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    main = model.subgraphs[0]
    main.outputs = np.array([before.get(int(index), int(index)) for index in main.outputs], np.int32)
    for entry in model.signatureDefs[0].outputs if model.signatureDefs else ():
        entry.tensorIndex = before.get(entry.tensorIndex, entry.tensorIndex)
    return read_graph(write_model(model))
