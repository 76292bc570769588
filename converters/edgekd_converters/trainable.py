"""A graph that can be trained: its weights as variables, a normalisation put back behind each layer, folded at the end.

The converter folded batch normalisation into the weights; a network trained without it is far worse. So behind every
convolution and dense layer stands one again (Ioffe and Szegedy 2015). It starts as the identity: its scale and shift
are the layer's own statistics on the samples, so that nothing changes until training begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program
from edgekd_converters.quiet import import_tensorflow

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
EMBEDDING, LAST = "embedding", "last"
_TABLES = ("GATHER", "EMBEDDING_LOOKUP")
_VECTORS = ("MUL", "ADD", "SUB", "PRELU", "BATCH_MATMUL")
_EPSILON = 1e-3
_MOMENTUM = 0.95


@dataclass(frozen=True)
class Normalisation:
    """Variables ``(channels,) float32``."""

    scale: Any
    shift: Any
    mean: Any
    variance: Any


class Trainable:
    """Variables and normalisations of one graph.

    Kernels are kept as matrices, ``(out, height · width · in)``. Names of variables begin with :data:`EMBEDDING` and
    :data:`LAST`, the layers that make the outputs, where an optimiser for inner layers' matrices does not apply.
    """

    def __init__(self, graph: Graph, batches: Iterable[dict[str, npt.NDArray[Any]]]) -> None:
        """``batches`` of samples give the statistics that the normalisations start from."""
        import_tensorflow()
        import keras

        self.graph = graph
        self.program = Program(graph)
        self._weights: dict[int, Any] = {}
        self._masks: dict[int, npt.NDArray[np.float32]] = {}
        for op in graph.main:
            for tensor in _trained(op):
                if tensor.index not in self._weights:
                    value = graph.constant(tensor)
                    name = f"{_kind(graph, op)}_{tensor.index}"
                    self._weights[tensor.index] = keras.Variable(_as_matrix(op, value), name=name)
                    if op.name in _TABLES:  # an empty row is padding and stays empty
                        self._masks[tensor.index] = value.any(axis=1, keepdims=True).astype(np.float32)
        self._normal: dict[int, Normalisation] = {}
        normalised = [op for op in graph.main if _is_normalised(graph, op)]
        for op, (mean, variance) in zip(normalised, self._moments(normalised, batches), strict=True):
            length = self._to_unit_length(op)
            variance = variance / np.square(length)
            parts = (length * np.sqrt(variance + _EPSILON), mean, mean / length, variance)
            trained = (True, True, False, False)
            self._normal[op.index] = Normalisation(
                *(keras.Variable(part, trainable=free) for part, free in zip(parts, trained, strict=True))
            )

    @property
    def variables(self) -> list[Any]:
        """What training moves."""
        scales = [part for normal in self._normal.values() for part in (normal.scale, normal.shift)]
        return [*self._weights.values(), *scales]

    @property
    def decayed(self) -> list[Any]:
        """Weight matrices and kernels, not vectors and tables: what weight decay applies to."""
        return [weight for index, weight in self._weights.items() if len(weight.shape) > 1 and index not in self._masks]

    def run(self, feeds: dict[str, Any], *, training: bool) -> dict[int, Any]:
        """All tensors by index; in training on the batch's own statistics, which the running ones follow."""

        def after(op: Op, outputs: list[Any]) -> list[Any]:
            normal = self._normal.get(op.index)
            return [_normalise(normal, outputs[0], training), *outputs[1:]] if normal else outputs

        return self.program.run(feeds, self._constants(), after=after)

    def masked(self, gradients: list[Any]) -> list[Any]:
        """Gradients of :attr:`variables`, zero where a weight must not move."""
        masks = [self._masks.get(index) for index in self._weights]
        masks += [None] * (len(gradients) - len(masks))
        return [
            gradient if mask is None or gradient is None else tf.convert_to_tensor(gradient) * mask
            for gradient, mask in zip(gradients, masks, strict=True)
        ]

    def settle(self, batches: Iterable[dict[str, npt.NDArray[Any]]]) -> None:
        """Replace the running statistics by exact ones over ``batches``, now that weights have stopped moving."""
        ops = [op for op in self.graph.main if op.index in self._normal]
        for op, (mean, variance) in zip(ops, self._moments(ops, batches, training=True), strict=True):
            self._normal[op.index].mean.assign(mean)
            self._normal[op.index].variance.assign(variance)

    def folded(self) -> Graph:
        """The graph with the trained weights, normalisations folded into them."""
        constants = {index: np.asarray(value) for index, value in self._constants().items()}
        operands: dict[tuple[int, int], npt.NDArray[Any]] = {}
        for op in self.graph.main:
            normal = self._normal.get(op.index)
            if normal is not None:
                operands.update(_fold(op, constants, normal))
        folded = {index for op, slot in operands for index in [self.graph.main[op].slots[slot].index]}  # type: ignore[union-attr]
        rest = {index: value for index, value in constants.items() if index not in folded}
        return self.graph.edited(rest, {}, operands)

    def _to_unit_length(self, op: Op) -> npt.NDArray[np.float32]:
        """Divide what makes a channel by its length, which is given back, ``(channels,)``.

        Folding has multiplied it by as much as the old normalisation's scale, so that one step would be large for some
        channels and small for others. Behind a normalisation the length does not matter.
        """
        weights, bias = op.slots[1], op.inputs[-1]
        assert weights is not None
        kernel = np.asarray(self._weights[weights.index].value)
        summed = tuple(range(kernel.ndim - 1)) if op.name == "DEPTHWISE_CONV_2D" else tuple(range(1, kernel.ndim))
        length = np.sqrt(np.square(kernel).sum(summed, keepdims=True))
        length = np.where(length > 0, length, 1).astype(np.float32)
        if any(weights in other.inputs or bias in other.inputs for other in self.graph.main if other is not op):
            length = np.ones_like(length)
        self._weights[weights.index].assign(kernel / length)
        self._weights[bias.index].assign(np.asarray(self._weights[bias.index].value) / length.ravel())
        return length.ravel()

    def _constants(self) -> dict[int, Any]:
        """The weights as the graph has them."""
        tensors = self.graph.tensors
        return {index: tf.reshape(weight.value, tensors[index].shape) for index, weight in self._weights.items()}

    def _moments(
        self, ops: list[Op], batches: Iterable[dict[str, npt.NDArray[Any]]], *, training: bool = False
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Mean and variance by channel of each op's output before normalisation and activation, over all batches."""
        wanted = {op.index for op in ops}
        first: dict[int, list[Any]] = {index: [] for index in wanted}
        second: dict[int, list[Any]] = {index: [] for index in wanted}

        def after(op: Op, outputs: list[Any]) -> list[Any]:
            if op.index in wanted:
                axes = list(range(len(outputs[0].shape) - 1))
                mean, variance = tf.nn.moments(outputs[0], axes)
                first[op.index].append(np.asarray(mean))
                second[op.index].append(np.asarray(variance + tf.square(mean)))
            normal = self._normal.get(op.index)
            return [_normalise(normal, outputs[0], training, follow=False), *outputs[1:]] if normal else outputs

        for batch in batches:
            feeds = {name: tf.constant(column) for name, column in batch.items()}
            self.program.run(feeds, self._constants(), after=after)
        moments = []
        for op in ops:
            mean = np.mean(first[op.index], axis=0)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in the loss
                variance = np.maximum(np.mean(second[op.index], axis=0) - np.square(mean), 0)
            moments.append((mean.astype(np.float32), variance.astype(np.float32)))
        return moments


def _kind(graph: Graph, op: Op) -> str:
    if op.name in _TABLES:
        return EMBEDDING
    return LAST if op.name in _LAYERS and _is_last(graph, op) else "weight"


def _as_matrix(op: Op, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``(out, height, width, in)`` → ``(out, height · width · in)``; anything else as it is."""
    return value.reshape(len(value), -1) if op.name in ("CONV_2D", "TRANSPOSE_CONV") and value.ndim == 4 else value


def _trained(op: Op) -> list[Tensor]:
    """The constants of an op that training may move."""
    constants = [tensor for tensor in op.inputs if tensor.is_constant and tensor.dtype == "FLOAT32"]
    if op.name in _LAYERS:
        return constants
    if op.name in _TABLES:
        return [tensor for tensor in constants if len(tensor.shape) == 2 and tensor.shape[1] > 1]
    if op.name in _VECTORS:
        return [tensor for tensor in constants if np.prod(tensor.shape) > 1]
    return []


def _is_normalised(graph: Graph, op: Op) -> bool:
    """A layer with a bias, but not the last one, and none of a transformer's, which has its own normalisation."""
    if op.name not in _LAYERS or not op.inputs[-1].is_constant or len(op.inputs[-1].shape) != 1:
        return False
    weights = op.slots[1]
    if weights is None or not weights.is_constant or any(other.name == "BATCH_MATMUL" for other in graph.main):
        return False
    return not _is_last(graph, op)


def _is_last(graph: Graph, op: Op) -> bool:
    """Whether what the layer makes is an output of the graph, but for what changes no order of its values."""
    ends = {tensor.index for tensor in graph.outputs}
    made = {op.outputs[0].index}
    for other in graph.main[op.index + 1 :]:
        if other.name in ("SOFTMAX", "LOGISTIC", "RESHAPE", "TANH") and made & {t.index for t in other.inputs}:
            made |= {tensor.index for tensor in other.outputs}
    return bool(made & ends)


def _normalise(normal: Normalisation, value: Any, training: bool, *, follow: bool = True) -> Any:
    scale, shift = normal.scale.value, normal.shift.value
    if not training:
        gain = scale * tf.math.rsqrt(normal.variance.value + _EPSILON)
        return value * gain + (shift - normal.mean.value * gain)
    flat = value if len(value.shape) == 4 else tf.reshape(value, (-1, 1, 1, value.shape[-1]))
    flat, mean, variance = tf.compat.v1.nn.fused_batch_norm(flat, scale, shift, epsilon=_EPSILON)
    if follow:
        for running, batch in ((normal.mean, mean), (normal.variance, variance)):
            running.assign(_MOMENTUM * running.value + (1 - _MOMENTUM) * batch)
    return tf.reshape(flat, tf.shape(value))


def _fold(
    op: Op, constants: dict[int, npt.NDArray[Any]], normal: Normalisation
) -> dict[tuple[int, int], npt.NDArray[np.float32]]:
    weights, bias = op.slots[1], op.inputs[-1]
    assert weights is not None
    gain = np.asarray(normal.scale.value) / np.sqrt(np.asarray(normal.variance.value) + _EPSILON)
    axis = 3 if op.name == "DEPTHWISE_CONV_2D" else 0
    shape = [-1 if k == axis else 1 for k in range(len(weights.shape))]
    shift = np.asarray(normal.shift.value) + (constants[bias.index] - np.asarray(normal.mean.value)) * gain
    slot = next(k for k, tensor in enumerate(op.slots) if tensor is bias)
    return {(op.index, 1): constants[weights.index] * gain.reshape(shape), (op.index, slot): shift}
