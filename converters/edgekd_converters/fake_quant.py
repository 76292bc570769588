"""A float graph run with the rounding of its int8 form, many samples at once and differentiable.

Rounding passes gradients as if it were not there, clipping stops them and moves the range's end instead (the
straight-through estimator; Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from edgekd_converters.calibrate import Ranges
from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.limits import FIXED, LAYERS, SAME_SCALE, within_limits
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Hook, Program, unchanged
from edgekd_converters.whole_steps import added, hard_swish, inverse_root, requantised, squared_difference

_KERNELS = ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE", "RSQRT", "HARD_SWISH")
"""Ops whose kernels round otherwise than a real result would be, see ``whole_steps``."""

_OF_BIASES = np.result_type(np.float64(1.0), np.zeros(1, np.float32))
"""What the quantiser rounds biases in: NumPy 1 takes the scale of a layer's input for a scalar, NumPy 2 does not."""

Ends = Mapping[int, tuple[Any, Any]]
"""Tensor index → (min, max), scalars."""


class _Layer(NamedTuple):
    """``product``: what one step of a layer's products is, by channel. ``bias``: in such steps, whole, ``float64``: a
    channel of small weights has more of them than ``float32`` counts."""

    product: Any
    bias: Any = None


class FakeQuant:
    """Activations asymmetric by tensor, weights symmetric by channel, as ``quantize_int8`` writes them."""

    def __init__(self, graph: Graph, ranges: Ranges) -> None:
        """``ranges``: of every float activation. Raises ``UnsupportedOpError`` naming the ops that cannot run."""
        self.graph = graph
        self.program = Program(graph)
        self.ranges, bounds = within_limits(graph, ranges)
        self._bounds = {tensor.index: bounds[tensor.name] for tensor in graph.tensors if tensor.name in bounds}
        self.ends: Ends = {
            tensor.index: self.ranges[tensor.name]
            for tensor in graph.tensors
            if tensor.dtype == "FLOAT32" and not tensor.is_constant and tensor.name in self.ranges
        }

    def run(
        self,
        feeds: Mapping[str, Any],
        constants: Mapping[int, Any] | None = None,
        ends: Ends | None = None,
        after: Hook = unchanged,
    ) -> dict[int, Any]:
        """All tensors by index, as :meth:`Program.run` gives them: what ops make, before their consumers round it.

        ``ends``: other ranges than the graph's own.
        """
        known, rounded = ends or self.ends, dict[int, Any]()
        steps, kernels = dict[int, Any](), dict[int, Any]()

        def before(op: Op, operands: list[Any]) -> list[Any]:
            made = [self._rounded(op, slot, value, known, rounded) for slot, value in enumerate(operands)]
            if self._is_layer(op, known):
                made, steps[op.index] = self._in_steps(op, operands, made, known)
            elif op.name in _KERNELS and op.outputs[0].index in known:
                kernels[op.index] = self._by_kernel(op, operands, made, known)
            return _joined(op, made, known) if op.name in ("CONCATENATION", "PACK") else made

        def real(op: Op, outputs: list[Any]) -> list[Any]:
            if op.index in steps:
                return [_requantised(op, outputs[0], steps[op.index], known, after)]
            if op.index in kernels:
                outputs = [_instead(outputs[0], kernels[op.index])]
            return after(op, [_pooled(op, outputs[0], known)] if op.name == "AVERAGE_POOL_2D" else outputs)

        return self.program.run(feeds, constants, before=before, after=real)

    def outputs(self, values: Mapping[int, Any], ends: Ends | None = None) -> dict[str, Any]:
        """The outputs by their public names, from what :meth:`run` returned, rounded as well."""
        known, rounded = ends or self.ends, dict[int, Any]()
        names = dict(zip(self.graph.signature.outputs, self.graph.results, strict=True))
        return {name: _activation(tensor, values[tensor.index], known, rounded) for name, tensor in names.items()}

    def _rounded(self, op: Op, slot: int, value: Any, known: Ends, rounded: dict[int, Any]) -> Any:
        tensor = op.slots[slot]
        if tensor is None or tensor.dtype != "FLOAT32":
            return value
        if not tensor.is_constant:
            return _activation(tensor, self._fed(tensor, value, known), known, rounded)
        if op.name in LAYERS:
            return value
        if tensor.index in self._bounds:
            step = self._weight_step(tensor, value, None)
            return _whole(value / step) * step
        step, zero = _constant_grid(value)
        return _instead(value, (tf.round(value * (1 / step) + zero) - zero) * step)

    def _fed(self, tensor: Tensor, value: Any, known: Ends) -> Any:
        """An input of the graph: whoever feeds it rounds halves to the even step, otherwise than what follows here."""
        if tensor not in self.graph.inputs or tensor.index not in known:
            return value
        step = _grid(*known[tensor.index])[0]
        return _instead(value, step * tf.round(value / step))

    def _is_layer(self, op: Op, known: Ends) -> bool:
        if op.name not in LAYERS:
            return False
        source, weights = op.slots[LAYERS[op.name][0]], op.slots[1]
        return source is not None and source.index in known and weights is not None and weights.is_constant

    def _in_steps(self, op: Op, operands: list[Any], made: list[Any], known: Ends) -> tuple[list[Any], _Layer]:
        """Operands as whole numbers of steps, but for the bias, which is added when the products are summed.

        Sums of whole numbers are exact, as in the kernels; sums of real ones would be rounded otherwise now and then.
        """
        at, bias, axis = LAYERS[op.name]
        source, weights = op.slots[at], op.slots[1]
        assert source is not None and weights is not None
        step = tf.stop_gradient(_grid(*known[source.index])[0])
        weight_step = self._weight_step(weights, operands[1], axis)
        product = step * tf.reshape(weight_step, (-1,))
        whole = list(made)
        whole[at], whole[1] = _whole(made[at] / step), _whole(operands[1] * (1 / weight_step))
        wide = self._weight_step(weights, operands[1], axis, double=True)
        is_limited = weights.index in self._bounds
        if is_limited:
            whole[1] = _instead(whole[1], tf.cast(_multiple(operands[1], wide, tf.float64), tf.float32))
        if bias >= len(operands) or operands[bias] is None:
            return whole, _Layer(product)
        kind = tf.float64 if is_limited else _OF_BIASES
        fine = tf.cast(_double_step(*known[source.index]), kind) * tf.reshape(tf.cast(wide, kind), (-1,))
        whole[bias] = _instead(operands[bias] / product, 0.0)
        return whole, _Layer(product, tf.cast(_multiple(operands[bias], fine, kind), tf.float64))

    def _by_kernel(self, op: Op, operands: list[Any], made: list[Any], known: Ends) -> Any:
        """What the kernel makes of an op's rounded operands, in reals, before it is clipped."""
        out = _grid(*known[op.outputs[0].index])[0]
        scales = [self._step_of(op, slot, value, known) for slot, value in enumerate(operands)]
        whole = [tf.stop_gradient(tf.round(value / step)) for value, step in zip(made, scales, strict=True)]
        if op.name == "MUL":
            return out * requantised(whole[0] * whole[1], scales[0] * scales[1] / out)
        if op.name == "SQUARED_DIFFERENCE":
            return out * squared_difference(whole[0], whole[1], scales[0], scales[1], out)
        if op.name == "RSQRT":
            return out * inverse_root(whole[0], scales[0], out)
        if op.name == "HARD_SWISH":
            return out * hard_swish(whole[0], scales[0], out)
        return out * added(whole[0], whole[1], scales[0] / out, scales[1] / out * (1 if op.name == "ADD" else -1))

    def _step_of(self, op: Op, slot: int, value: Any, known: Ends) -> Any:
        """Of an operand that is no layer's weights."""
        tensor = op.slots[slot]
        assert tensor is not None
        if not tensor.is_constant:
            return tf.stop_gradient(_grid(*known[tensor.index])[0])
        if tensor.index in self._bounds:
            return tf.reshape(self._weight_step(tensor, value, None), ())
        return _constant_grid(value)[0]

    def _weight_step(self, tensor: Tensor, value: Any, axis: int | None, *, double: bool = False) -> Any:
        """Symmetric, -127 … 127; the scale follows the greatest weight of a channel, unless a limit widens it.

        ``double``: as the quantiser has it when it rounds biases, ``float64`` where there are limits.
        """
        summed = [k for k in range(len(tensor.shape)) if k != axis]
        bound = tf.maximum(tf.reduce_max(tf.abs(value), summed, keepdims=True), 1e-9)
        if tensor.index in self._bounds:
            step = tf.maximum(tf.cast(bound, tf.float64), self._bounds[tensor.index]) / 127
        else:
            step = bound / 127
        return tf.stop_gradient(tf.cast(step, tf.float64 if double else tf.float32))


def free_tensors(graph: Graph) -> dict[int, int]:
    """Float activation → the one whose range it has, which may be itself. Left out: what a kernel or a table fixes."""
    root: dict[int, int] = {}
    for tensor in graph.inputs:
        if tensor.dtype == "FLOAT32":
            root[tensor.index] = tensor.index
    for op in graph.main:
        sources = [tensor for tensor in op.inputs if tensor.dtype == "FLOAT32"]
        for tensor in op.outputs:
            if tensor.dtype != "FLOAT32" or op.name in FIXED:
                continue
            if op.name not in SAME_SCALE:
                root[tensor.index] = tensor.index
            elif sources and sources[0].index in root:
                root[tensor.index] = root[sources[0].index]
    return root


def _pooled(op: Op, value: Any, known: Ends) -> Any:
    """An average pool rounds halves of stored values away from 0, all else here halves up: moved out of the way."""
    if op.outputs[0].index not in known:
        return value
    step, zero = _grid(*known[op.outputs[0].index])
    return value + tf.stop_gradient(1e-3 * step * tf.sign(value / step + zero))


def _joined(op: Op, made: list[Any], known: Ends) -> list[Any]:
    """Inputs are brought to the output's scale first, by a factor that XNNPACK holds in 8 bits (``qs8_vcvt``)."""
    out = known.get(op.outputs[0].index)
    if out is None:
        return made
    ready = list(made)
    for slot, tensor in enumerate(op.slots):
        if tensor is not None and tensor.index in known:
            ratio = tf.stop_gradient(_grid(*known[tensor.index])[0] / _grid(*out)[0])
            ready[slot] = made[slot] * tf.round(256 * ratio) / (256 * ratio)
    return ready


def _requantised(op: Op, sums: Any, layer: _Layer, known: Ends, after: Hook) -> Any:
    """A layer's sums of whole numbers as the kernel puts them onto the output's grid.

    What is made of them afterwards is put there in their place: a bias is added before the kernel rounds.
    """
    product = layer.product
    if layer.bias is not None:
        sums = _instead(sums, tf.cast(tf.cast(sums, tf.float64) + layer.bias, tf.float32))
    value = sums * product
    (made,) = after(op, [value])
    if op.outputs[0].index not in known:
        return made
    step = tf.stop_gradient(_grid(*known[op.outputs[0].index])[0])
    whole = requantised(sums, product / step) if made is value else tf.round(made / step)
    return _instead(made, step * whole)


def _instead(value: Any, kernels: Any) -> Any:
    """The kernel's value with the gradient of the other."""
    return value + tf.stop_gradient(kernels - value)


def _grid(low: Any, high: Any) -> tuple[Any, Any]:
    """Step and zero point of a range, by the quantiser's arithmetic."""
    step = _double_step(low, high)
    zero = tf.round(-128 - tf.minimum(tf.cast(low, tf.float64), 0.0) / step)
    return tf.cast(step, tf.float32), tf.cast(zero, tf.float32)


def _double_step(low: Any, high: Any) -> Any:
    """``float64``, as the quantiser has it when it rounds biases."""
    return (tf.maximum(tf.cast(high, tf.float64), 1e-30) - tf.minimum(tf.cast(low, tf.float64), 0.0)) / 255


def _constant_grid(value: Any) -> tuple[Any, Any]:
    """Of an operand that is constant: all of it, in ``float32`` as the quantiser has it."""
    low, high = tf.minimum(tf.reduce_min(value), 0.0), tf.maximum(tf.reduce_max(value), 0.0)
    step = tf.stop_gradient(tf.maximum(high - low, 1e-9) / 255)
    return step, tf.stop_gradient(tf.round(-128 - low / step))


def _multiple(value: Any, step: Any, kind: Any) -> Any:
    """How many steps, rounded, by the quantiser's arithmetic."""
    return tf.round(tf.cast(value, kind) * (1 / tf.cast(step, kind)))


def _whole(value: Any) -> Any:
    """Rounded; the gradient is that of ``value``."""
    return value + tf.stop_gradient(tf.round(value) - value)


def _activation(tensor: Tensor, value: Any, known: Ends, rounded: dict[int, Any]) -> Any:
    """Rounded once for all who read it."""
    if tensor.index not in known:
        return value
    if tensor.index not in rounded:
        low, high = known[tensor.index]
        step, zero = _grid(low, high)  # TensorFlow's own zero point is another one now and then
        low = _instead(tf.minimum(tf.cast(low, tf.float32), 0.0), step * (-128 - zero))
        high = _instead(tf.maximum(tf.cast(high, tf.float32), 1e-30), step * (127 - zero))
        rounded[tensor.index] = tf.quantization.fake_quant_with_min_max_vars(value, low, high)
    return rounded[tensor.index]
