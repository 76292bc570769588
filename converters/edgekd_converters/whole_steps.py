"""What int8 kernels make of whole numbers of steps: XNNPACK's arithmetic and, where it has no kernel, LiteRT's.

Operands count from their zero points, results from the output's; nothing is clipped. Written for TensorFlow, many
samples at once, and for what the kernels reach without overflow. Scales are ``float32`` scalars, as the file has them.
"""

from __future__ import annotations

from typing import Any

from edgekd_converters.ops.lazy import tf

_BITS = 20  # XNNPACK's multipliers of an addition have one more
_FIRST = 7  # bits that LiteRT shifts operands by before it scales them
_ROOT = 20  # bits behind the point of an inverse root


def requantised(sums: Any, scale: Any) -> Any:
    """Sums of products onto the output's grid; halves to the even one (XNNPACK's ``fp32`` requantisation)."""
    return tf.round(sums * scale)


def added(left: Any, right: Any, left_scale: Any, right_scale: Any) -> Any:
    """Of a sum or, with a negative scale, a difference; halves go up (``qs8_vadd``).

    ``left_scale``, ``right_scale``: of an operand, relative to the output's.
    """
    widest = tf.maximum(tf.abs(left_scale), tf.abs(right_scale))
    shift = _BITS - tf.cast(_exponent(widest), tf.int32)
    up = tf.cast(2.0, tf.float32) ** tf.cast(shift, tf.float32)
    factors = [tf.cast(tf.round(scale * up), tf.int32) for scale in (left_scale, right_scale)]
    half = tf.bitwise.left_shift(tf.constant(1, tf.int32), shift - 1)
    total = _whole(left) * factors[0] + _whole(right) * factors[1] + half
    return tf.cast(tf.bitwise.right_shift(total, shift), tf.float32)


def squared_difference(left: Any, right: Any, left_scale: Any, right_scale: Any, scale: Any) -> Any:
    """LiteRT's: both operands onto one finer grid first. ``scale``: the output's."""
    left_scale, right_scale, scale = (tf.cast(one, tf.float64) for one in (left_scale, right_scale, scale))
    widest = 2 * tf.maximum(left_scale, right_scale)
    fine = [
        _multiplied(tf.cast(value, tf.int64) * 2**_FIRST, one / widest)
        for value, one in ((left, left_scale), (right, right_scale))
    ]
    difference = fine[0] - fine[1]
    return tf.cast(_multiplied(difference * difference, widest**2 / (scale * 2.0 ** (2 * _FIRST))), tf.float32)


def inverse_root(value: Any, given: Any, scale: Any) -> Any:
    """LiteRT's ``1 / sqrt``; of what is not positive the greatest step of all. ``given``: the input's scale."""
    given, scale = tf.cast(given, tf.float32), tf.cast(scale, tf.float32)
    root = tf.math.rsqrt(tf.cast(tf.maximum(value, 1), tf.float64))
    fixed = tf.cast(tf.floor(root * 2.0**_ROOT + 0.5), tf.int64)
    factor = 1 / (tf.cast(tf.sqrt(given), tf.float64) * tf.cast(scale, tf.float64))
    made = tf.cast(_multiplied(fixed, factor / 2.0**_ROOT), tf.float32)
    return tf.where(value > 0, made, 255.0)


def hard_swish(value: Any, given: Any, scale: Any) -> Any:
    """LiteRT's, in 16 bits. ``given``: the input's scale."""
    fine = given / 128
    (factor, exponent), (slope, up) = (_of_16_bits(fine / one) for one in (scale, 3.0 / 32768))
    value = tf.cast(value, tf.int64) * 128
    outer = _high(value, factor)
    gate = _clipped(tf.bitwise.left_shift(value, tf.maximum(up - 1, 0)))
    gate = _high(gate, slope)
    gate = _clipped(tf.bitwise.left_shift(gate, tf.minimum(tf.maximum(up, 0), 1)))
    gate = tf.bitwise.right_shift(_shifted(gate, -up) + 2**15, tf.constant(1, tf.int64))
    product = gate * outer
    cut = tf.sign(product) * tf.bitwise.right_shift(tf.abs(product), tf.constant(15, tf.int64))
    return tf.cast(_shifted(cut, -exponent), tf.float32)


def _of_16_bits(factor: Any) -> tuple[Any, Any]:
    """Multiplier of 15 bits and exponent of 2, both ``int64``."""
    part, exponent = _parts(tf.cast(factor, tf.float64))
    multiplier = tf.floor(part * 2.0**31 + 0.5)
    return tf.minimum(tf.cast(tf.floor(multiplier / 2**16 + 0.5), tf.int64), 2**15 - 1), tf.cast(exponent, tf.int64)


def _parts(factor: Any) -> tuple[Any, Any]:
    """A positive ``float64`` as a share, 1/2 … 1, and an ``int32`` exponent of 2."""
    exponent = tf.cast(tf.floor(tf.math.log(factor) / tf.math.log(tf.cast(2.0, tf.float64))), tf.int32) + 1
    return factor / 2.0 ** tf.cast(exponent, tf.float64), exponent


def _high(value: Any, multiplier: Any) -> Any:
    """The upper half of a product of 16 bits, halves away from 0 but for negative ones."""
    product = value * multiplier
    raised = product + tf.where(product >= 0, tf.constant(2**14, tf.int64), 1 - 2**14)
    return tf.sign(raised) * tf.bitwise.right_shift(tf.abs(raised), tf.constant(15, tf.int64))


def _shifted(value: Any, bits: Any) -> Any:
    """Divided by a power of 2, halves away from 0; as it is where there are no ``bits``."""
    bits = tf.maximum(bits, 0)
    half = tf.where(bits > 0, tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.maximum(bits - 1, 0)), 0)
    return tf.sign(value) * tf.bitwise.right_shift(tf.abs(value) + half, bits)


def _clipped(value: Any) -> Any:
    return tf.clip_by_value(value, -(2**15), 2**15 - 1)


def _whole(value: Any) -> Any:
    return tf.cast(tf.round(value), tf.int32)


def _exponent(value: Any) -> Any:
    """Of 2, of a positive ``float32``: floor of its logarithm, exactly."""
    return tf.bitwise.right_shift(tf.bitcast(tf.cast(value, tf.float32), tf.int32), 23) - 127


def _multiplied(value: Any, factor: Any) -> Any:
    """``int64`` times a positive real below 1, by gemmlowp: a 31-bit product, rounded, shifted and rounded again."""
    part, exponent = _parts(factor)
    multiplier = tf.cast(tf.floor(part * 2.0**31 + 0.5), tf.int64)
    product = tf.abs(value) * multiplier  # halves go away from 0 in both, so the sign can wait
    high = tf.bitwise.right_shift(product + 2**30, tf.constant(31, tf.int64))
    up = tf.bitwise.left_shift(high, tf.cast(tf.maximum(exponent, 0), tf.int64))
    down = _shifted(high, tf.cast(-exponent, tf.int64))
    return tf.sign(value) * tf.where(exponent > 0, up, down)
