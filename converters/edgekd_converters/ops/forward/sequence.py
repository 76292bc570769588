"""Recurrent ops."""

from __future__ import annotations

from typing import Any

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import fold, unfold
from edgekd_converters.ops.lazy import tf

_INPUT, _RECURRENT, _BIAS = slice(1, 5), slice(5, 9), slice(12, 16)  # each: input, forget, cell, output gate
_ABSENT = {"peephole": slice(9, 12), "projection": slice(16, 18), "layer normalisation": slice(20, 24)}
_TANH = 4


def unidirectional_sequence_lstm(op: Op, values: list[Any], batch: int) -> list[Any]:
    """``(b, t, i)`` → ``(b, t, units)``, or with the first axes swapped; each sequence starts from zero state.

    The interpreter keeps the state from one run to the next until it is reset, which is no part of what the model says.
    """
    for what, slots in _ABSENT.items():
        if any(value is not None for value in values[slots]):
            raise UnsupportedOpError(f"{op}: an LSTM with {what} is not supported")
    if op.options.fusedActivationFunction != _TANH or any(value is None for value in values[_INPUT]):
        raise UnsupportedOpError(f"{op}: an LSTM must have an input gate and tanh in its cell")
    x = unfold(values[0], op.slots[0], batch)  # (batch, b, t, i)
    x = tf.transpose(x, (1, 0, 2, 3) if op.options.timeMajor else (2, 0, 1, 3))  # (t, batch, b, i)
    steps, *rows, width = x.shape
    weights, bias = tf.concat(values[_INPUT], 0), tf.concat(values[_BIAS], 0)
    driven = tf.matmul(tf.reshape(x, (-1, width)), weights, transpose_b=True) + bias
    made = _run(op, tf.reshape(driven, (steps, rows[0] * rows[1], -1)), tf.concat(values[_RECURRENT], 0))
    made = tf.reshape(made, (steps, *rows, driven.shape[-1] // 4))
    return [fold(tf.transpose(made, (1, 0, 2, 3) if op.options.timeMajor else (1, 2, 0, 3)), batch)]


def _run(op: Op, driven: Any, recurrent: Any) -> Any:
    """``(t, rows, 4·units)``, what the input adds to the gates → ``(t, rows, units)``."""
    clip = op.options.cellClip

    def step(state: tuple[Any, Any], drive: Any) -> tuple[Any, Any]:
        gates = drive + tf.matmul(state[0], recurrent, transpose_b=True)
        enter, keep, fresh, leave = tf.split(gates, 4, -1)
        cell = tf.sigmoid(keep) * state[1] + tf.sigmoid(enter) * tf.tanh(fresh)
        if clip > 0:
            cell = tf.clip_by_value(cell, -clip, clip)
        return tf.sigmoid(leave) * tf.tanh(cell), cell

    nothing = tf.zeros((driven.shape[1], recurrent.shape[1]))
    return tf.scan(step, driven, (nothing, nothing))[0]
