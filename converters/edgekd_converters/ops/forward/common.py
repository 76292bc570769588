"""What the forwards share: how samples are stacked, and operands that must be known before running.

A value that depends on the graph's inputs holds ``batch`` samples one after the other along axis 0: graph shape
``(a, b, c)`` → ``(batch·a, b, c)``, and ``()`` → ``(batch,)``. All other values have their graph shape. An op that
works row by row can ignore this; one that does something with axis 0, or whose operands may be of either kind,
unfolds them to ``(batch, a, b, c)`` or ``(1, a, b, c)``, works one axis further right, and folds its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.graph import Op, Tensor
from edgekd_converters.ops.lazy import tf

Forward = Callable[[Op, list[Any], int], list[Any]]
"""(op, input values by slot (tf tensors; None where absent), batch) → output values before the fused activation.

``batch`` is 1 for an op none of whose inputs depends on the graph's inputs.
"""


def unfold(value: Any, tensor: Tensor | None, batch: int) -> Any:
    """``(batch·a, …)`` → ``(batch, a, …)``; a value that is the same for all samples → ``(1, a, …)``."""
    if tensor is None or batch == 1 or not is_stacked(value, tensor):
        return tf.expand_dims(value, 0)
    return tf.reshape(value, (batch, value.shape[0] // batch, *value.shape[1:]) if tensor.shape else (batch,))


def unfold_all(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [unfold(value, slot, batch) for value, slot in zip(values, op.slots, strict=True)]


def fold(value: Any, batch: int) -> Any:
    """``(batch, a, …)`` → ``(batch·a, …)``; ``(batch,)`` stays."""
    if batch == 1:
        return tf.squeeze(value, 0)
    return value if len(value.shape) < 2 else tf.reshape(value, (math.prod(value.shape[:2]), *value.shape[2:]))


def spread(value: Any, batch: int) -> Any:
    """An unfolded value with all ``batch`` samples, copied if it was the same for all."""
    return value if value.shape[0] == batch else tf.broadcast_to(value, (batch, *value.shape[1:]))


def of_rank(value: Any, rank: int) -> Any:
    """An unfolded value with ones put in behind axis 0, so that it broadcasts as its graph shape would."""
    missing = rank + 1 - len(value.shape)
    return tf.reshape(value, (value.shape[0], *[1] * missing, *value.shape[1:])) if missing > 0 else value


def known(op: Op, value: Any) -> tuple[int, ...]:
    """An operand that states axes or sizes. Raises ``UnsupportedOpError`` when it is known only at run time."""
    static = tf.get_static_value(value)
    if static is None:
        raise UnsupportedOpError(f"{op}: an operand that states axes or sizes is computed from the model's input")
    return tuple(int(number) for number in np.ravel(static))


def known_one(op: Op, value: Any) -> int:
    return known(op, value)[0]


def right_of_samples(axis: int, rank: int) -> int:
    """The axis in an unfolded value of an axis, perhaps negative, in a graph tensor of this rank."""
    return (axis + rank if axis < 0 else axis) + 1


def rank_of(op: Op, slot: int = 0) -> int:
    tensor = op.slots[slot]
    assert tensor is not None
    return len(tensor.shape)


def is_stacked(value: Any, tensor: Tensor) -> bool:
    """Whether the value holds many samples, which only its leading size can tell."""
    if tensor.is_constant:
        return False
    return len(value.shape) != len(tensor.shape) or value.shape[0] != tensor.shape[0]
