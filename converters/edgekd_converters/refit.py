"""Least-squares refit: consumers of removed channels take over, with what is left, what they gave before.

Layer by layer from the input on, each convolution's or dense layer's weights are solved for so that its outputs on
calibration samples, fed by the pruned graph, come as near as can be to the original's (He et al. 2017, "Channel Pruning
for Accelerating Very Deep Neural Networks"). No labels, no gradient steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import Channels
from edgekd_converters.cost import count_macs
from edgekd_converters.graph import Graph, Op
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program
from edgekd_converters.slim import Mask

_BATCH = 64
_MIN_SAMPLES, _MAX_SAMPLES = 64, 512
_MACS = 6_000_000_000  # of one pass over the samples: a large network makes do with fewer
_ROWS_PER_FEATURE = 16
_MAX_FEATURES = 4608
_RIDGES = (1e-4, 1e-2, 1e-1, 1.0)

Rows = npt.NDArray[np.float32]


class Refitter:
    """Refits graphs pruned from one original, on the same samples; what the original gives is computed once.

    ``channels`` are those of the graph that channels leave from: the original, or the original without some blocks.
    """

    def __init__(self, channels: Channels, original: Graph, samples: Columns, seed: int) -> None:
        rng = np.random.default_rng(seed)
        count = int(np.clip(_MACS // max(1, count_macs(channels.graph)), _MIN_SAMPLES, _MAX_SAMPLES))
        count = min(count, len(next(iter(samples.values()))))
        self._channels = channels
        self._feeds = [
            {name: tf.constant(column[start : min(start + _BATCH, count)]) for name, column in samples.items()}
            for start in range(0, count, _BATCH)
        ]
        self._wanted: dict[int, list[tuple[npt.NDArray[np.int64], Rows]]] = {}
        place = {op.outputs[0].name: op.index for op in channels.graph.main if op.outputs}
        self._place = {op.index: place[op.outputs[0].name] for op in original.main if op.outputs[0].name in place}
        self._moved = {
            self._place[op.index]
            for op in original.main
            if op.index in self._place
            and op.inputs[0].name != channels.graph.main[self._place[op.index]].inputs[0].name
        }
        program = Program(original)
        for feed in self._feeds:
            program.run(feed, after=lambda op, outputs: self._take(op, outputs, rng))

    def __call__(self, slim: Graph, kept: Mask, only: Collection[int] | None = None) -> Graph:
        """``slim``, which lacks the classes that are not ``kept``, with refitted weights; of the ops ``only`` if given.

        Its ops are those of the original, and what it computes may already have been refitted.
        """
        for op in slim.main:
            chosen = op.index in self._wanted and (only is None or op.index in only)
            if chosen and (op.index in self._moved or self._has_lost_inputs(op, kept)):
                solved = self._solve(slim, op, kept)
                slim = slim.edited({}, {}, {(op.index, slot): value for slot, value in solved.items()})
        return slim

    def _take(self, op: Op, outputs: list[Any], rng: np.random.Generator) -> list[Any]:
        """Keep the original's values, before activation, at some positions of a layer that can be refitted."""
        if _is_solvable(op) and op.index in self._place:
            rows = np.asarray(outputs[0]).reshape(-1, outputs[0].shape[-1])
            features = int(np.prod(op.inputs[1].shape[1:]))
            most = max(256, _ROWS_PER_FEATURE * features // len(self._feeds))
            chosen = np.sort(rng.permutation(len(rows))[:most])
            self._wanted.setdefault(self._place[op.index], []).append((chosen, rows[chosen]))
        return outputs

    def _has_lost_inputs(self, op: Op, kept: Mask) -> bool:
        labels = self._channels.axes[self._channels.key(self._channels.graph.main[op.index], 0)][-1]
        return labels is not None and not bool(kept[labels].all())

    def _solve(self, slim: Graph, op: Op, kept: Mask) -> dict[int, Rows]:
        """New weights and bias by slot."""
        weights, bias = slim.constant(op.inputs[1]), slim.constant(op.inputs[2])
        present = np.concatenate([weights.reshape(len(weights), -1), bias[:, None]], axis=1).T.astype(np.float64)
        columns = self._channels.axes[op.outputs[0].index][-1]
        sources, targets = [], []
        for features, (chosen, rows) in zip(self._inputs(Program(slim), op), self._wanted[op.index], strict=True):
            sources.append(np.concatenate([features[chosen], np.ones((len(chosen), 1))], axis=1).astype(np.float64))
            targets.append(rows if columns is None else rows[:, kept[columns]])
        solved = least_squares(np.concatenate(sources), np.concatenate(targets).astype(np.float64), present)
        return {1: solved[:-1].T.reshape(weights.shape).astype(np.float32), 2: solved[-1].astype(np.float32)}

    def _inputs(self, program: Program, op: Op) -> Iterator[Rows]:
        """For each batch what the layer multiplies with its weights, ``(positions, features)``."""
        for feed in self._feeds:
            x = _value_before(program, op, feed)
            yield np.asarray(_patches(op, x)).reshape(-1, int(np.prod(op.inputs[1].shape[1:])))


def least_squares(
    sources: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], present: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """``(features, outputs)`` weights that take ``(rows, features)`` to ``(rows, outputs)``, drawn towards ``present``.

    How strongly is chosen on every fifth row, held out; where no fit serves these better, ``present`` stays.
    """
    held = np.arange(len(sources)) % 5 == 4
    best, least = 0.0, np.square(sources[held] @ present - targets[held]).sum()
    gram, moment = sources[~held].T @ sources[~held], sources[~held].T @ targets[~held]
    for ridge in _RIDGES:
        error = np.square(sources[held] @ _ridge(gram, moment, present, ridge) - targets[held]).sum()
        if error < least:
            best, least = ridge, error
    return _ridge(sources.T @ sources, sources.T @ targets, present, best) if best else present


def _ridge(
    gram: npt.NDArray[np.float64], moment: npt.NDArray[np.float64], present: npt.NDArray[np.float64], ridge: float
) -> npt.NDArray[np.float64]:
    pull = ridge * float(np.trace(gram)) / len(gram)
    return np.linalg.solve(gram + pull * np.eye(len(gram)), moment + pull * present)


class _ReachedError(Exception):
    """Ends a run: what follows is not needed."""


def _value_before(program: Program, op: Op, feed: dict[str, Any]) -> Any:
    taken: list[Any] = []

    def before(other: Op, inputs: list[Any]) -> list[Any]:
        if other.index == op.index:
            taken.append(inputs[0])
            raise _ReachedError
        return inputs

    with contextlib.suppress(_ReachedError):
        program.run(feed, before=before)
    return taken[0]


def _is_solvable(op: Op) -> bool:
    """A layer with weights and bias of its own, over one input."""
    if op.name not in ("CONV_2D", "FULLY_CONNECTED") or len(op.inputs) != 3:
        return False
    source, weights, bias = op.inputs
    if not weights.is_constant or not bias.is_constant or int(np.prod(weights.shape[1:])) > _MAX_FEATURES:
        return False
    return weights.shape[-1] == source.shape[-1]  # neither grouped nor flattening


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
