"""The table of ops: a new op is a new row."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd_converters.channels import Channels, Rule, opaque
from edgekd_converters.graph import Graph
from edgekd_converters.ops.forward import convolution, elementwise, image, indexing, reduction, sequence, shape
from edgekd_converters.ops.forward.common import Forward
from edgekd_converters.ops.rules import layers, moves, values


@dataclass(frozen=True)
class Row:
    """How an op runs in TensorFlow, and how channels pass through it."""

    forward: Forward
    channels: Rule


TABLE: dict[str, Row] = {
    "CONV_2D": Row(convolution.conv_2d, layers.conv_2d),
    "DEPTHWISE_CONV_2D": Row(convolution.depthwise_conv_2d, layers.depthwise_conv_2d),
    "TRANSPOSE_CONV": Row(convolution.transpose_conv, layers.transpose_conv),
    "FULLY_CONNECTED": Row(convolution.fully_connected, layers.fully_connected),
    "BATCH_MATMUL": Row(convolution.batch_matmul, layers.batch_matmul),
    "AVERAGE_POOL_2D": Row(image.average_pool_2d, values.spatial),
    "MAX_POOL_2D": Row(image.max_pool_2d, values.spatial),
    "L2_POOL_2D": Row(image.l2_pool_2d, values.spatial),
    "LOCAL_RESPONSE_NORMALIZATION": Row(image.local_response_normalization, values.along_last),
    "RESIZE_BILINEAR": Row(image.resize_bilinear, values.spatial),
    "RESIZE_NEAREST_NEIGHBOR": Row(image.resize_nearest_neighbor, values.spatial),
    "SPACE_TO_DEPTH": Row(image.space_to_depth, moves.depth_from_space),
    "DEPTH_TO_SPACE": Row(image.depth_to_space, moves.space_from_depth),
    "SPACE_TO_BATCH_ND": Row(image.space_to_batch_nd, values.spatial),
    "BATCH_TO_SPACE_ND": Row(image.batch_to_space_nd, values.spatial),
    "RELU": Row(elementwise.relu, values.unary),
    "RELU6": Row(elementwise.relu6, values.unary),
    "RELU_N1_TO_1": Row(elementwise.relu_n1_to_1, values.unary),
    "RELU_0_TO_1": Row(elementwise.relu_0_to_1, values.unary),
    "LEAKY_RELU": Row(elementwise.leaky_relu, values.unary),
    "PRELU": Row(elementwise.prelu, values.elementwise),
    "ELU": Row(elementwise.elu, values.unary),
    "TANH": Row(elementwise.tanh, values.unary),
    "LOGISTIC": Row(elementwise.logistic, values.unary),
    "HARD_SWISH": Row(elementwise.hard_swish, values.unary),
    "GELU": Row(elementwise.gelu, values.unary),
    "EXP": Row(elementwise.exp, values.unary),
    "LOG": Row(elementwise.log, values.unary),
    "SQRT": Row(elementwise.sqrt, values.unary),
    "RSQRT": Row(elementwise.rsqrt, values.unary),
    "SQUARE": Row(elementwise.square, values.unary),
    "ABS": Row(elementwise.absolute, values.unary),
    "NEG": Row(elementwise.neg, values.unary),
    "SIN": Row(elementwise.sin, values.unary),
    "COS": Row(elementwise.cos, values.unary),
    "FLOOR": Row(elementwise.floor, values.unary),
    "CEIL": Row(elementwise.ceil, values.unary),
    "ROUND": Row(elementwise.round_half_even, values.unary),
    "SIGN": Row(elementwise.sign, values.unary),
    "LOGICAL_NOT": Row(elementwise.logical_not, values.unary),
    "ZEROS_LIKE": Row(elementwise.zeros_like, values.unary),
    "CAST": Row(elementwise.cast, values.unary),
    "DEQUANTIZE": Row(elementwise.dequantize, values.unary),
    "ADD": Row(elementwise.add, values.elementwise),
    "ADD_N": Row(elementwise.add_n, values.elementwise),
    "SUB": Row(elementwise.sub, values.elementwise),
    "MUL": Row(elementwise.mul, values.elementwise),
    "DIV": Row(elementwise.div, values.elementwise),
    "MAXIMUM": Row(elementwise.maximum, values.elementwise),
    "MINIMUM": Row(elementwise.minimum, values.elementwise),
    "SQUARED_DIFFERENCE": Row(elementwise.squared_difference, values.elementwise),
    "POW": Row(elementwise.power, values.elementwise),
    "FLOOR_DIV": Row(elementwise.floor_div, values.elementwise),
    "FLOOR_MOD": Row(elementwise.floor_mod, values.elementwise),
    "ATAN2": Row(elementwise.atan2, values.elementwise),
    "EQUAL": Row(elementwise.equal, values.elementwise),
    "NOT_EQUAL": Row(elementwise.not_equal, values.elementwise),
    "LESS": Row(elementwise.less, values.elementwise),
    "LESS_EQUAL": Row(elementwise.less_equal, values.elementwise),
    "GREATER": Row(elementwise.greater, values.elementwise),
    "GREATER_EQUAL": Row(elementwise.greater_equal, values.elementwise),
    "LOGICAL_AND": Row(elementwise.logical_and, values.elementwise),
    "LOGICAL_OR": Row(elementwise.logical_or, values.elementwise),
    "SELECT": Row(elementwise.select, values.elementwise),
    "SELECT_V2": Row(elementwise.select_v2, values.elementwise),
    "MEAN": Row(reduction.mean, values.reduction(sums=False)),
    "SUM": Row(reduction.total, values.reduction(sums=True)),
    "REDUCE_MAX": Row(reduction.reduce_max, values.reduction(sums=False)),
    "REDUCE_MIN": Row(reduction.reduce_min, values.reduction(sums=False)),
    "REDUCE_PROD": Row(reduction.reduce_prod, values.reduction(sums=False)),
    "REDUCE_ANY": Row(reduction.reduce_any, values.reduction(sums=False)),
    "REDUCE_ALL": Row(reduction.reduce_all, values.reduction(sums=False)),
    "ARG_MAX": Row(reduction.arg_max, values.arg_extreme),
    "ARG_MIN": Row(reduction.arg_min, values.arg_extreme),
    "CUMSUM": Row(reduction.cumsum, values.cumsum),
    "TOPK_V2": Row(reduction.topk_v2, opaque),
    "SOFTMAX": Row(reduction.softmax, values.along_last),
    "LOG_SOFTMAX": Row(reduction.log_softmax, values.along_last),
    "L2_NORMALIZATION": Row(reduction.l2_normalization, values.unary),
    "RESHAPE": Row(shape.reshape, moves.reshape),
    "SQUEEZE": Row(shape.squeeze, moves.reshape),
    "EXPAND_DIMS": Row(shape.expand_dims, moves.reshape),
    "TRANSPOSE": Row(shape.transpose, moves.transpose),
    "CONCATENATION": Row(shape.concatenation, moves.concatenation),
    "PACK": Row(shape.pack, moves.pack),
    "UNPACK": Row(shape.unpack, moves.unpack),
    "SPLIT": Row(shape.split, moves.split(data=1, axis=0)),
    "SPLIT_V": Row(shape.split_v, moves.split_v),
    "SLICE": Row(shape.cut, moves.slice_),
    "STRIDED_SLICE": Row(shape.strided_slice, moves.strided_slice),
    "PAD": Row(shape.pad, moves.pad),
    "PADV2": Row(shape.pad_v2, moves.pad),
    "MIRROR_PAD": Row(shape.mirror_pad, moves.same_sizes),
    "TILE": Row(shape.tile, moves.same_sizes),
    "BROADCAST_TO": Row(shape.broadcast_to, moves.same_sizes),
    "FILL": Row(shape.fill, opaque),
    "REVERSE_V2": Row(shape.reverse_v2, opaque),
    "SHAPE": Row(shape.shape_of, opaque),
    "RANK": Row(shape.rank, opaque),
    "RANGE": Row(shape.sequence_of_numbers, opaque),
    "GATHER": Row(indexing.gather, moves.gather),
    "GATHER_ND": Row(indexing.gather_nd, opaque),
    "EMBEDDING_LOOKUP": Row(indexing.embedding_lookup, moves.embedding_lookup),
    "ONE_HOT": Row(indexing.one_hot, opaque),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Row(sequence.unidirectional_sequence_lstm, opaque),
}


def channels_of(graph: Graph) -> Channels:
    """The channel analysis of a graph under the table's rules."""
    return Channels(graph, lambda op: TABLE[op.name].channels if op.name in TABLE else None)
