"""Least-squares refit: consumers of removed channels take over, with what is left, what they gave before.

Layer by layer from the input on, each convolution's or dense layer's weights are solved for so that its outputs on
calibration samples, fed by the pruned graph, come as near as can be to the original's (He et al. 2017, "Channel Pruning
for Accelerating Very Deep Neural Networks"). No labels, no gradient steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import Channels
from edgekd_converters.graph import Graph, Op
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program
from edgekd_converters.slim import Mask

_SAMPLES = 512
_BATCH = 64
_MAX_ROWS = 2048  # positions of each batch that enter the sums
_MAX_FEATURES = 4608
_RIDGE = 1e-3


def refit(channels: Channels, slim: Graph, kept: Mask, samples: Columns, seed: int) -> Graph:
    """``slim`` with refitted weights. ``channels`` and ``kept`` are those that it was made with."""
    rng = np.random.default_rng(seed)
    original = Program(channels.graph)
    for op in slim.main:
        if _may_refit(channels, op, kept):
            solved = _solve(channels, original, slim, op, kept, samples, rng)
            slim = slim.edited({}, {}, {(op.index, slot): value for slot, value in solved.items()})
    return slim


def _may_refit(channels: Channels, op: Op, kept: Mask) -> bool:
    """A layer with weights of its own whose input has lost channels."""
    if op.name not in ("CONV_2D", "FULLY_CONNECTED") or not all(tensor.is_constant for tensor in op.inputs[1:]):
        return False
    if len(op.slots) < 3 or op.slots[2] is None:
        return False
    labels = channels.axes[channels.key(op, 0)][-1]
    weights, source = op.inputs[1], op.inputs[0]
    features = int(np.prod(weights.shape[1:]))
    grouped = op.name == "CONV_2D" and weights.shape[3] != source.shape[3]
    return labels is not None and not kept[labels].all() and not grouped and features <= _MAX_FEATURES


def _solve(
    channels: Channels, original: Program, slim: Graph, op: Op, kept: Mask, samples: Columns, rng: np.random.Generator
) -> dict[int, npt.NDArray[np.float32]]:
    """New weights and bias by slot: least squares, drawn a little towards the present ones."""
    weights, bias = slim.constant(op.inputs[1]), slim.constant(op.inputs[2])
    present = np.concatenate([weights.reshape(len(weights), -1), bias[:, None]], axis=1).T.astype(np.float64)
    gram = np.zeros((len(present), len(present)))
    moment = np.zeros_like(present)
    columns = channels.axes[channels.graph.main[op.index].outputs[0].index][-1]
    for features, wanted in _rows(original, Program(slim), op, samples, rng):
        target = wanted if columns is None else wanted[:, kept[columns]]
        gram += features.T @ features
        moment += features.T @ target
    ridge = _RIDGE * float(np.trace(gram)) / len(gram)
    solved = np.linalg.solve(gram + ridge * np.eye(len(gram)), moment + ridge * present)
    return {1: solved[:-1].T.reshape(weights.shape).astype(np.float32), 2: solved[-1].astype(np.float32)}


def _rows(
    original: Program, slim: Program, op: Op, samples: Columns, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Batches of (inputs of one output position with a 1 behind, the original's value there before activation)."""
    count = min(_SAMPLES, len(next(iter(samples.values()))))
    for start in range(0, count, _BATCH):
        feed = {name: tf.constant(column[start : min(start + _BATCH, count)]) for name, column in samples.items()}
        wanted = _linear_output(original, op.index, feed)
        x = slim.run(feed)[op.inputs[0].index]
        features = np.asarray(_patches(op, x)).reshape(-1, int(np.prod(op.inputs[1].shape[1:])))
        target = np.asarray(wanted).reshape(len(features), -1)
        chosen = rng.permutation(len(features))[:_MAX_ROWS]
        ones = np.ones((len(chosen), 1))
        yield np.concatenate([features[chosen], ones], axis=1).astype(np.float64), target[chosen].astype(np.float64)


def _linear_output(program: Program, index: int, feed: dict[str, Any]) -> Any:
    taken = []

    def after(op: Op, outputs: list[Any]) -> list[Any]:
        if op.index == index:
            taken.append(outputs[0])
        return outputs

    program.run(feed, after=after)
    return taken[0]


def _patches(op: Op, x: Any) -> Any:
    if op.name == "FULLY_CONNECTED":
        return x
    options, (_, height, width, _) = op.options, op.inputs[1].shape
    return tf.image.extract_patches(
        x,
        [1, height, width, 1],
        [1, options.strideH, options.strideW, 1],
        [1, options.dilationHFactor, options.dilationWFactor, 1],
        "VALID" if options.padding else "SAME",
    )
