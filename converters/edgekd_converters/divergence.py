"""How far a changed graph's outputs are from the original's, on the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from edgekd_converters.errors import RunError
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.quiet import quiet

Outputs = dict[str, npt.NDArray[np.float64]]
"""Public output name → ``(n, …)``."""


def run_columns(graph: Graph, columns: Columns, threads: int = 2) -> Outputs:
    """A float or int8 graph's outputs in real numbers on all samples, by the stock interpreter. Raises ``RunError``."""
    try:
        with quiet():  # it announces its delegate
            interpreter = Interpreter(model_content=graph.content, num_threads=threads)
            interpreter.allocate_tensors()
        details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
        inputs = {name: details[tensor] for name, tensor in graph.signature.inputs.items()}
        outputs = {name: details[tensor] for name, tensor in graph.signature.outputs.items()}
        rows: dict[str, list[Any]] = {name: [] for name in outputs}
        for feed in feeds(columns):
            for name, detail in inputs.items():
                interpreter.set_tensor(detail["index"], _stored(feed[name], detail))
            interpreter.reset_all_variables()  # a recurrent op would go on from the sample before
            interpreter.invoke()
            for name, detail in outputs.items():
                rows[name].append(interpreter.get_tensor(detail["index"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"the interpreter cannot run the model: {' '.join(str(error).split())[:300]}") from error
    return {name: _real(np.concatenate(parts), outputs[name]) for name, parts in rows.items()}


def _stored(real: npt.NDArray[Any], detail: dict[str, Any]) -> npt.NDArray[Any]:
    scale, zero_point = detail["quantization"]
    if not scale:
        return real
    limits = np.iinfo(detail["dtype"])
    stored: npt.NDArray[Any] = np.clip(np.rint(real / scale) + zero_point, limits.min, limits.max)
    return stored.astype(detail["dtype"])


def _real(stored: npt.NDArray[Any], detail: dict[str, Any]) -> npt.NDArray[np.float64]:
    scale, zero_point = detail["quantization"]
    real: npt.NDArray[np.float64] = stored.astype(np.float64)
    return (real - zero_point) * scale if scale else real


def is_scores(values: npt.NDArray[Any]) -> bool:
    """Whether an output looks like a classifier's: ``(n, classes)``, logits or probabilities."""
    return values.ndim == 2 and values.shape[1] > 1


def log_probabilities(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logits or probabilities ``(n, classes)`` → log-probabilities."""
    if are_probabilities(scores):
        logs: npt.NDArray[np.float64] = np.log(np.maximum(scores, 1e-12))
        return logs
    shifted = scores - scores.max(1, keepdims=True)
    normal: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return normal


def are_probabilities(scores: npt.NDArray[Any]) -> bool:
    """Whether the model already ends in a softmax."""
    return bool(scores.min() >= 0 and np.abs(scores.sum(-1) - 1).max() < 1e-3)


def divergence(original: Outputs, changed: Outputs) -> float:
    """Summed over outputs: mean KL divergence for a classifier's, squared error relative to the variance for others."""
    total = 0.0
    for name, wanted in original.items():
        got = changed[name]
        if is_scores(wanted):
            total += float(divergences(wanted, got).mean())
        else:
            total += float(np.square(got - wanted).mean() / max(float(wanted.var()), 1e-12))
    return total


def divergences(
    wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64], temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    """KL divergence of every row of ``(n, classes)`` logits or probabilities from that of the original, ``(n,)``.

    ``temperature``: that logits are divided by first.
    """
    target, reached = log_probabilities(wanted / temperature), log_probabilities(got / temperature)
    rows: npt.NDArray[np.float64] = (np.exp(target) * (target - reached)).sum(1)
    return rows
