"""What a student should learn from a teacher, as differentiable distances between tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd_converters.graph import Graph, Tensor
from edgekd_converters.ops.lazy import tf


def logits_of(graph: Graph, values: Mapping[int, Any]) -> list[Any]:
    """The public outputs, in order; of a closing softmax its input, which has the same order and does not saturate."""
    made_by = {tensor.index: op for op in graph.main for tensor in op.outputs}
    ends = [(made_by[tensor.index], tensor.index) for tensor in graph.results]
    return [values[op.inputs[0].index if op.name == "SOFTMAX" else index] for op, index in ends]


def spread(logits: Any) -> Any:
    """Standard deviation of ``(n, classes)`` from the mean of their row; 1 for anything else."""
    if len(logits.shape) != 2 or logits.shape[1] < 2:
        return tf.constant(1.0)
    return tf.math.reduce_std(logits - tf.reduce_mean(logits, 1, keepdims=True)) + 1e-6


def distance(student: Any, teacher: Any, temperature: Any) -> Any:
    """T²·KL for ``(n, classes)``; for anything else the squared error relative to the teacher's variance."""
    if len(student.shape) == 2 and student.shape[1] > 1:
        soft = tf.nn.softmax(teacher / temperature)
        cross = tf.nn.softmax_cross_entropy_with_logits(soft, student / temperature)
        entropy = tf.nn.softmax_cross_entropy_with_logits(soft, teacher / temperature)
        return temperature**2 * tf.reduce_mean(cross - entropy)
    return squared_error(student, teacher)


def squared_error(student: Any, teacher: Any) -> Any:
    """Relative to the teacher's variance."""
    return tf.reduce_mean(tf.square(student - teacher)) / (tf.math.reduce_variance(teacher) + 1e-12)


def hint_points(student: Graph, teacher: Graph) -> list[tuple[int, int]]:
    """Pairs of feature maps: in both graphs, the last at each resolution, where the resolutions are the same."""
    mine, its = _last_at_each_resolution(student), _last_at_each_resolution(teacher)
    return [(mine[size].index, its[size].index) for size in mine if size in its]


def _last_at_each_resolution(graph: Graph) -> dict[tuple[int, ...], Tensor]:
    if not any("CONV" in op.name for op in graph.main):
        return {}  # four axes, but no pixels
    return {
        tensor.shape[1:3]: tensor
        for op in graph.main
        for tensor in op.outputs
        if len(tensor.shape) == 4 and tensor.dtype == "FLOAT32" and min(tensor.shape[1:3]) > 1
    }


def hint_distance(points: Sequence[tuple[int, int]], student: Mapping[int, Any], teacher: Mapping[int, Any]) -> Any:
    """Where the student looks against where the teacher looks: maps of channel energy, each of unit length.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention"; it asks nothing of the number of channels.
    """
    parts = [
        tf.reduce_mean(tf.reduce_sum(tf.square(_attention(student[mine]) - _attention(teacher[its])), axis=1))
        for mine, its in points
    ]
    return tf.add_n(parts) / max(1, len(parts))


def _attention(features: Any) -> Any:
    energy = tf.reduce_mean(tf.square(features), axis=-1)
    return tf.math.l2_normalize(tf.reshape(energy, (energy.shape[0], -1)), axis=1)
