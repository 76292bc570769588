"""How far an int8 graph's answers are from the float graph's, on samples that it was not made with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.divergence import are_probabilities, divergences, is_scores, run_columns
from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.observe import Columns

_ODD = 8.0  # times the usual magnitude

Reals = npt.NDArray[np.float64]


class Judge:
    """Keeps the float graph's answers. Of a closing softmax the input counts: it tells more, and int8 has no tiny
    probabilities."""

    def __init__(self, graph: Graph, held_out: Columns) -> None:
        """``held_out``: samples by input name, ``(n, …)``. A few that are broken, far greater than others, shall not
        decide and are left out."""
        kept = _ordinary(held_out)
        self._samples = {name: column[kept] for name, column in held_out.items()}
        self._wanted = run_columns(_unsaturated(graph), self._samples)
        sizes = {tensor.shape for tensor in graph.inputs}
        self._copies = {name for name, one in zip(self._wanted, graph.results, strict=True) if one.shape in sizes}

    def distance(self, int8: Graph) -> float:
        """The KL divergence of a classifier's outputs, of others the squared error relative to the variance.

        Of logits it is taken at a temperature of their own spread: a network that is sure of its samples, which it may
        have been trained on, would otherwise tell nothing by most of them.
        """
        got = run_columns(_unsaturated(int8), self._samples)
        return sum(self._distance(name, wanted, got[name]) for name, wanted in self._wanted.items())

    def _distance(self, name: str, wanted: Reals, got: Reals) -> float:
        if name not in self._copies and is_scores(wanted):
            spread = float((wanted - wanted.mean(1, keepdims=True)).std())
            soft = 1.0 if are_probabilities(wanted) or not spread else spread
            return float(divergences(wanted, got, soft).mean())
        return float(np.square(got - wanted).mean() / max(float(wanted.var()), 1e-12))

    def agreement(self, int8: Graph) -> float | None:
        """Share of samples on which the first output has the float graph's top-1; None for what is no classifier."""
        name, wanted = next(iter(self._wanted.items()))
        if name in self._copies or not is_scores(wanted):
            return None
        got = run_columns(_unsaturated(int8), self._samples)[name]
        return float((got.argmax(1) == wanted.argmax(1)).mean())


def _ordinary(columns: Columns) -> npt.NDArray[np.bool_]:
    """The rows none of whose real inputs goes 8 times as far as it does in most, ``(n,)``; all, where all do."""
    kept = np.ones(len(next(iter(columns.values()))), np.bool_)
    for column in columns.values():
        if np.issubdtype(column.dtype, np.floating) and column[0].size:
            reach = np.abs(column).reshape(len(column), -1).max(1)
            kept &= reach <= _ODD * np.median(reach)
    return kept if kept.any() else ~kept


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
