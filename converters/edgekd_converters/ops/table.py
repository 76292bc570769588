"""The table of ops: a new op is a new row."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd_converters.channels import Channels, Rule, opaque
from edgekd_converters.graph import Graph
from edgekd_converters.ops import rules
from edgekd_converters.ops.forward import convolution, elementwise, image, indexing, reduction, sequence, shape
from edgekd_converters.ops.forward.common import Forward


@dataclass(frozen=True)
class Row:
    """How an op runs in TensorFlow, and how channels pass through it."""

    forward: Forward
    channels: Rule


TABLE: dict[str, Row] = {
    "CONV_2D": Row(convolution.conv_2d, rules.conv_2d),
    "DEPTHWISE_CONV_2D": Row(convolution.depthwise_conv_2d, rules.depthwise_conv_2d),
    "TRANSPOSE_CONV": Row(convolution.transpose_conv, rules.transpose_conv),
    "FULLY_CONNECTED": Row(convolution.fully_connected, rules.fully_connected),
    "BATCH_MATMUL": Row(convolution.batch_matmul, rules.batch_matmul),
    "AVERAGE_POOL_2D": Row(image.average_pool_2d, rules.spatial),
    "MAX_POOL_2D": Row(image.max_pool_2d, rules.spatial),
    "L2_POOL_2D": Row(image.l2_pool_2d, rules.spatial),
    "LOCAL_RESPONSE_NORMALIZATION": Row(image.local_response_normalization, rules.along_last),
    "RESIZE_BILINEAR": Row(image.resize_bilinear, rules.spatial),
    "RESIZE_NEAREST_NEIGHBOR": Row(image.resize_nearest_neighbor, rules.spatial),
    "SPACE_TO_DEPTH": Row(image.space_to_depth, rules.depth_from_space),
    "DEPTH_TO_SPACE": Row(image.depth_to_space, rules.space_from_depth),
    "SPACE_TO_BATCH_ND": Row(image.space_to_batch_nd, rules.spatial),
    "BATCH_TO_SPACE_ND": Row(image.batch_to_space_nd, rules.spatial),
    "RELU": Row(elementwise.relu, rules.unary),
    "RELU6": Row(elementwise.relu6, rules.unary),
    "RELU_N1_TO_1": Row(elementwise.relu_n1_to_1, rules.unary),
    "RELU_0_TO_1": Row(elementwise.relu_0_to_1, rules.unary),
    "LEAKY_RELU": Row(elementwise.leaky_relu, rules.unary),
    "PRELU": Row(elementwise.prelu, rules.elementwise),
    "ELU": Row(elementwise.elu, rules.unary),
    "TANH": Row(elementwise.tanh, rules.unary),
    "LOGISTIC": Row(elementwise.logistic, rules.unary),
    "HARD_SWISH": Row(elementwise.hard_swish, rules.unary),
    "GELU": Row(elementwise.gelu, rules.unary),
    "EXP": Row(elementwise.exp, rules.unary),
    "LOG": Row(elementwise.log, rules.unary),
    "SQRT": Row(elementwise.sqrt, rules.unary),
    "RSQRT": Row(elementwise.rsqrt, rules.unary),
    "SQUARE": Row(elementwise.square, rules.unary),
    "ABS": Row(elementwise.absolute, rules.unary),
    "NEG": Row(elementwise.neg, rules.unary),
    "SIN": Row(elementwise.sin, rules.unary),
    "COS": Row(elementwise.cos, rules.unary),
    "FLOOR": Row(elementwise.floor, rules.unary),
    "CEIL": Row(elementwise.ceil, rules.unary),
    "ROUND": Row(elementwise.round_half_even, rules.unary),
    "SIGN": Row(elementwise.sign, rules.unary),
    "LOGICAL_NOT": Row(elementwise.logical_not, rules.unary),
    "ZEROS_LIKE": Row(elementwise.zeros_like, rules.unary),
    "CAST": Row(elementwise.cast, rules.unary),
    "DEQUANTIZE": Row(elementwise.dequantize, rules.unary),
    "ADD": Row(elementwise.add, rules.elementwise),
    "ADD_N": Row(elementwise.add_n, rules.elementwise),
    "SUB": Row(elementwise.sub, rules.elementwise),
    "MUL": Row(elementwise.mul, rules.elementwise),
    "DIV": Row(elementwise.div, rules.elementwise),
    "MAXIMUM": Row(elementwise.maximum, rules.elementwise),
    "MINIMUM": Row(elementwise.minimum, rules.elementwise),
    "SQUARED_DIFFERENCE": Row(elementwise.squared_difference, rules.elementwise),
    "POW": Row(elementwise.power, rules.elementwise),
    "FLOOR_DIV": Row(elementwise.floor_div, rules.elementwise),
    "FLOOR_MOD": Row(elementwise.floor_mod, rules.elementwise),
    "ATAN2": Row(elementwise.atan2, rules.elementwise),
    "EQUAL": Row(elementwise.equal, rules.elementwise),
    "NOT_EQUAL": Row(elementwise.not_equal, rules.elementwise),
    "LESS": Row(elementwise.less, rules.elementwise),
    "LESS_EQUAL": Row(elementwise.less_equal, rules.elementwise),
    "GREATER": Row(elementwise.greater, rules.elementwise),
    "GREATER_EQUAL": Row(elementwise.greater_equal, rules.elementwise),
    "LOGICAL_AND": Row(elementwise.logical_and, rules.elementwise),
    "LOGICAL_OR": Row(elementwise.logical_or, rules.elementwise),
    "SELECT": Row(elementwise.select, rules.elementwise),
    "SELECT_V2": Row(elementwise.select_v2, rules.elementwise),
    "MEAN": Row(reduction.mean, rules.reduction(sums=False)),
    "SUM": Row(reduction.total, rules.reduction(sums=True)),
    "REDUCE_MAX": Row(reduction.reduce_max, rules.reduction(sums=False)),
    "REDUCE_MIN": Row(reduction.reduce_min, rules.reduction(sums=False)),
    "REDUCE_PROD": Row(reduction.reduce_prod, rules.reduction(sums=False)),
    "REDUCE_ANY": Row(reduction.reduce_any, rules.reduction(sums=False)),
    "REDUCE_ALL": Row(reduction.reduce_all, rules.reduction(sums=False)),
    "ARG_MAX": Row(reduction.arg_max, rules.arg_extreme),
    "ARG_MIN": Row(reduction.arg_min, rules.arg_extreme),
    "CUMSUM": Row(reduction.cumsum, rules.cumsum),
    "TOPK_V2": Row(reduction.topk_v2, opaque),
    "SOFTMAX": Row(reduction.softmax, rules.along_last),
    "LOG_SOFTMAX": Row(reduction.log_softmax, rules.along_last),
    "L2_NORMALIZATION": Row(reduction.l2_normalization, rules.unary),
    "RESHAPE": Row(shape.reshape, rules.reshape),
    "SQUEEZE": Row(shape.squeeze, rules.reshape),
    "EXPAND_DIMS": Row(shape.expand_dims, rules.reshape),
    "TRANSPOSE": Row(shape.transpose, rules.transpose),
    "CONCATENATION": Row(shape.concatenation, rules.concatenation),
    "PACK": Row(shape.pack, rules.pack),
    "UNPACK": Row(shape.unpack, rules.unpack),
    "SPLIT": Row(shape.split, rules.split(data=1, axis=0)),
    "SPLIT_V": Row(shape.split_v, rules.split_v),
    "SLICE": Row(shape.cut, rules.slice_),
    "STRIDED_SLICE": Row(shape.strided_slice, rules.strided_slice),
    "PAD": Row(shape.pad, rules.pad),
    "PADV2": Row(shape.pad_v2, rules.pad),
    "MIRROR_PAD": Row(shape.mirror_pad, rules.same_sizes),
    "TILE": Row(shape.tile, rules.same_sizes),
    "BROADCAST_TO": Row(shape.broadcast_to, rules.same_sizes),
    "FILL": Row(shape.fill, opaque),
    "REVERSE_V2": Row(shape.reverse_v2, opaque),
    "SHAPE": Row(shape.shape_of, opaque),
    "RANK": Row(shape.rank, opaque),
    "RANGE": Row(shape.sequence_of_numbers, opaque),
    "GATHER": Row(indexing.gather, rules.gather),
    "GATHER_ND": Row(indexing.gather_nd, opaque),
    "EMBEDDING_LOOKUP": Row(indexing.embedding_lookup, rules.embedding_lookup),
    "ONE_HOT": Row(indexing.one_hot, opaque),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Row(sequence.unidirectional_sequence_lstm, opaque),
}


def channels_of(graph: Graph) -> Channels:
    """The channel analysis of a graph under the table's rules."""
    return Channels(graph, lambda op: TABLE[op.name].channels if op.name in TABLE else None)
