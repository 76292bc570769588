"""How much a channel counts, measured where channels are used up: at the inputs of the ops that sum over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import Channels, Edge
from edgekd_converters.divergence import are_probabilities, is_scores
from edgekd_converters.graph import Op
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program
from edgekd_converters.slim import keep_all

_SAMPLES = 512
_BATCH = 32

Scores = npt.NDArray[np.float64]
"""``(classes,)``: greater counts more; by the classes of :class:`Channels`."""


def importance(channels: Channels, samples: Columns, kind: str, seed: int, advance: Callable[[str], None]) -> Scores:
    """The importance of every class of channels.

    ``weight``: mean magnitude of its weights, relative to each tensor's (Li et al. 2017, "Pruning Filters for Efficient
    ConvNets"). ``activation``: the energy that it carries into its consumers, E[x²]·‖w‖². ``taylor``: the squared
    first-order change of the log-likelihood of answers drawn from the model itself when the channel is set to zero
    (Theis et al. 2018; Molchanov et al. 2019), which is the Fisher approximation of the KL divergence that follows.
    """
    if kind == "weight":
        return _weight(channels)
    return _measured(channels, samples, kind, seed, advance)


def _weight(channels: Channels) -> Scores:
    scores = np.zeros(len(keep_all(channels)))
    for op in channels.graph.main:
        for slot, tensor in enumerate(op.slots):
            if tensor is None or not tensor.is_constant or tensor.dtype != "FLOAT32" or len(tensor.shape) < 2:
                continue
            magnitude = np.abs(channels.graph.constant(tensor))
            for axis, labels in enumerate(channels.axes.get(channels.key(op, slot), [])):
                if labels is not None:
                    by_channel = magnitude.mean(axis=tuple(k for k in range(magnitude.ndim) if k != axis))
                    np.add.at(scores, labels, by_channel / max(float(by_channel.mean()), 1e-30))
    return scores


def _measured(channels: Channels, samples: Columns, kind: str, seed: int, advance: Callable[[str], None]) -> Scores:
    program = Program(channels.graph)
    scores = np.zeros(len(keep_all(channels)))
    edges = {(edge.op.index, edge.slot): edge for edge in channels.edges if _labels(channels, edge) is not None}
    rng = np.random.default_rng(seed)
    for number, batch in enumerate(_batches(samples)):
        advance(f"importance, batch {number + 1}")
        if kind == "taylor":
            _add_taylor(channels, program, batch, edges, rng, scores)
        else:
            _add_energy(channels, program, batch, edges, scores)
    return scores


def _labels(channels: Channels, edge: Edge) -> npt.NDArray[np.int64] | None:
    axes = channels.axes.get(channels.key(edge.op, edge.slot))
    return None if axes is None else axes[edge.axis]


def _batches(samples: Columns) -> Iterator[dict[str, npt.NDArray[Any]]]:
    count = min(_SAMPLES, len(next(iter(samples.values()))))
    for start in range(0, count, _BATCH):
        yield {name: column[start : min(start + _BATCH, count)] for name, column in samples.items()}


def _add_energy(
    channels: Channels, program: Program, batch: Columns, edges: Mapping[tuple[int, int], Edge], scores: Scores
) -> None:
    values = program.run({name: tf.constant(column) for name, column in batch.items()})
    for edge in edges.values():
        tensor, labels = edge.op.slots[edge.slot], _labels(channels, edge)
        assert tensor is not None and labels is not None
        x = np.asarray(values[tensor.index])
        energy = np.square(x).mean(axis=tuple(k for k in range(x.ndim) if k != edge.axis))
        np.add.at(scores, labels, energy * _consumer_energy(channels, edge, len(labels)))


def _consumer_energy(channels: Channels, edge: Edge, count: int) -> npt.NDArray[np.float64]:
    """‖w‖² of each channel's weights in the op that takes them, 1 where these are no constants or not one a channel."""
    weights = edge.op.slots[1] if len(edge.op.slots) > 1 else None
    if edge.op.name not in ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV") or weights is None:
        return np.ones(count)
    array = np.square(channels.graph.constant(weights).astype(np.float64))
    energy: npt.NDArray[np.float64] = array.sum(axis=tuple(range(array.ndim - 1)))
    return energy if len(energy) == count else np.ones(count)


def _add_taylor(
    channels: Channels,
    program: Program,
    batch: Columns,
    edges: Mapping[tuple[int, int], Edge],
    rng: np.random.Generator,
    scores: Scores,
) -> None:
    count = len(next(iter(batch.values())))
    taken: dict[tuple[int, int], Any] = {}

    with tf.GradientTape() as tape:

        def watch(op: Op, inputs: list[Any]) -> list[Any]:
            for slot, value in enumerate(inputs):
                if (op.index, slot) in edges:
                    # A copy, so that the gradient is that of this use alone.
                    value = tf.identity(value)
                    tape.watch(value)
                    taken[op.index, slot] = inputs[slot] = value
            return inputs

        values = program.run({name: tf.constant(column) for name, column in batch.items()}, before=watch)
        loss = sum(_likelihood(output, rng) for output in program.outputs(values).values())
    gradients = tape.gradient(loss, taken)
    effect = np.zeros((count, len(scores)))
    for key, gradient in gradients.items():
        labels = _labels(channels, edges[key])
        if gradient is None or labels is None:
            continue
        change = np.asarray(taken[key] * gradient)
        change = np.moveaxis(change, edges[key].axis, -1).reshape(count, -1, len(labels)).sum(1)
        np.add.at(effect.T, labels, change.T)
    scores += np.square(effect).mean(0)


def _likelihood(output: Any, rng: np.random.Generator) -> Any:
    """A scalar whose squared derivative is, on average over draws, the Fisher information of the output."""
    scores = np.asarray(output)
    if not is_scores(scores):  # a Gaussian around the output
        scale = float(scores.std()) or 1.0
        return (
            tf.reduce_sum(output * rng.standard_normal(scores.shape).astype(np.float32)) / scale / scores[0].size ** 0.5
        )
    logs = tf.math.log(tf.maximum(output, 1e-12)) if are_probabilities(scores) else tf.nn.log_softmax(output)
    drawn = (np.exp(np.asarray(logs)).cumsum(1) > rng.random((len(scores), 1))).argmax(1)
    return tf.reduce_sum(tf.gather(logs, drawn, batch_dims=1))
