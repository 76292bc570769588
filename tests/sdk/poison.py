"""A network of which one layer is poisoned: the same function in float, and next to nothing left of it in int8."""

from edgekd_converters.graph import Graph, Op


def poisoned(graph: Graph, op: Op, factor: float) -> Graph:
    """The same function in float: a channel of a convolution made greater, and its weights in the next one less.

    ``op`` has a ReLU, and one consumer, a convolution.
    """
    (consumer,) = (one for one in graph.main if op.outputs[0].index in {tensor.index for tensor in one.inputs})
    weights, bias, following = (graph.constant(one).copy() for one in (*op.inputs[1:3], consumer.inputs[1]))
    weights[0] *= factor
    bias[0] *= factor
    following[..., 0] /= factor
    changed = {op.inputs[1].index: weights, op.inputs[2].index: bias, consumer.inputs[1].index: following}
    return graph.edited(changed, {})


def inner_convolution(graph: Graph) -> Op:
    """The one of 24 channels, in the middle of the residual branch."""
    return next(op for op in graph.main if op.name == "CONV_2D" and op.outputs[0].shape[-1] == 24)
