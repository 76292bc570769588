"""The table of ops: a new op is a new row."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd_converters.channels import Channels, Rule, opaque
from edgekd_converters.graph import Graph
from edgekd_converters.ops.forward import convolution, elementwise, image, indexing, reduction, sequence, shape
from edgekd_converters.ops.forward.common import Forward
from edgekd_converters.ops.nodes import layers as to_layers
from edgekd_converters.ops.nodes import moves as to_moves
from edgekd_converters.ops.nodes import values as to_values
from edgekd_converters.ops.nodes.common import Writer
from edgekd_converters.ops.rules import layers, moves, values


@dataclass(frozen=True)
class Row:
    """How an op runs in TensorFlow, how channels pass through it, and how it is written in ONNX."""

    forward: Forward
    channels: Rule
    nodes: Writer


TABLE: dict[str, Row] = {
    "CONV_2D": Row(convolution.conv_2d, layers.conv_2d, to_layers.conv_2d),
    "DEPTHWISE_CONV_2D": Row(convolution.depthwise_conv_2d, layers.depthwise_conv_2d, to_layers.depthwise_conv_2d),
    "TRANSPOSE_CONV": Row(convolution.transpose_conv, layers.transpose_conv, to_layers.transpose_conv),
    "FULLY_CONNECTED": Row(convolution.fully_connected, layers.fully_connected, to_layers.fully_connected),
    "BATCH_MATMUL": Row(convolution.batch_matmul, layers.batch_matmul, to_layers.batch_matmul),
    "AVERAGE_POOL_2D": Row(image.average_pool_2d, values.spatial, to_layers.average_pool_2d),
    "MAX_POOL_2D": Row(image.max_pool_2d, values.spatial, to_layers.max_pool_2d),
    "L2_POOL_2D": Row(image.l2_pool_2d, values.spatial, to_layers.l2_pool_2d),
    "LOCAL_RESPONSE_NORMALIZATION": Row(
        image.local_response_normalization, values.along_last, to_layers.local_response_normalization
    ),
    "RESIZE_BILINEAR": Row(image.resize_bilinear, values.spatial, to_layers.resize_bilinear),
    "RESIZE_NEAREST_NEIGHBOR": Row(image.resize_nearest_neighbor, values.spatial, to_layers.resize_nearest_neighbor),
    "SPACE_TO_DEPTH": Row(image.space_to_depth, moves.depth_from_space, to_layers.space_to_depth),
    "DEPTH_TO_SPACE": Row(image.depth_to_space, moves.space_from_depth, to_layers.depth_to_space),
    "SPACE_TO_BATCH_ND": Row(image.space_to_batch_nd, values.spatial, to_moves.space_to_batch_nd),
    "BATCH_TO_SPACE_ND": Row(image.batch_to_space_nd, values.spatial, to_moves.batch_to_space_nd),
    "RELU": Row(elementwise.relu, values.unary, to_values.relu),
    "RELU6": Row(elementwise.relu6, values.unary, to_values.relu6),
    "RELU_N1_TO_1": Row(elementwise.relu_n1_to_1, values.unary, to_values.relu_n1_to_1),
    "RELU_0_TO_1": Row(elementwise.relu_0_to_1, values.unary, to_values.relu_0_to_1),
    "LEAKY_RELU": Row(elementwise.leaky_relu, values.unary, to_values.leaky_relu),
    "PRELU": Row(elementwise.prelu, values.elementwise, to_values.prelu),
    "ELU": Row(elementwise.elu, values.unary, to_values.elu),
    "TANH": Row(elementwise.tanh, values.unary, to_values.tanh),
    "LOGISTIC": Row(elementwise.logistic, values.unary, to_values.logistic),
    "HARD_SWISH": Row(elementwise.hard_swish, values.unary, to_values.hard_swish),
    "GELU": Row(elementwise.gelu, values.unary, to_values.gelu),
    "EXP": Row(elementwise.exp, values.unary, to_values.exp),
    "LOG": Row(elementwise.log, values.unary, to_values.log),
    "SQRT": Row(elementwise.sqrt, values.unary, to_values.sqrt),
    "RSQRT": Row(elementwise.rsqrt, values.unary, to_values.rsqrt),
    "SQUARE": Row(elementwise.square, values.unary, to_values.square),
    "ABS": Row(elementwise.absolute, values.unary, to_values.absolute),
    "NEG": Row(elementwise.neg, values.unary, to_values.neg),
    "SIN": Row(elementwise.sin, values.unary, to_values.sin),
    "COS": Row(elementwise.cos, values.unary, to_values.cos),
    "FLOOR": Row(elementwise.floor, values.unary, to_values.floor),
    "CEIL": Row(elementwise.ceil, values.unary, to_values.ceil),
    "ROUND": Row(elementwise.round_half_even, values.unary, to_values.round_half_even),
    "SIGN": Row(elementwise.sign, values.unary, to_values.sign),
    "LOGICAL_NOT": Row(elementwise.logical_not, values.unary, to_values.logical_not),
    "ZEROS_LIKE": Row(elementwise.zeros_like, values.unary, to_values.zeros_like),
    "CAST": Row(elementwise.cast, values.unary, to_values.cast),
    "DEQUANTIZE": Row(elementwise.dequantize, values.unary, to_values.dequantize),
    "ADD": Row(elementwise.add, values.elementwise, to_values.add),
    "ADD_N": Row(elementwise.add_n, values.elementwise, to_values.add_n),
    "SUB": Row(elementwise.sub, values.elementwise, to_values.sub),
    "MUL": Row(elementwise.mul, values.elementwise, to_values.mul),
    "DIV": Row(elementwise.div, values.elementwise, to_values.div),
    "MAXIMUM": Row(elementwise.maximum, values.elementwise, to_values.maximum),
    "MINIMUM": Row(elementwise.minimum, values.elementwise, to_values.minimum),
    "SQUARED_DIFFERENCE": Row(elementwise.squared_difference, values.elementwise, to_values.squared_difference),
    "POW": Row(elementwise.power, values.elementwise, to_values.power),
    "FLOOR_DIV": Row(elementwise.floor_div, values.elementwise, to_values.floor_div),
    "FLOOR_MOD": Row(elementwise.floor_mod, values.elementwise, to_values.floor_mod),
    "ATAN2": Row(elementwise.atan2, values.elementwise, to_values.atan2),
    "EQUAL": Row(elementwise.equal, values.elementwise, to_values.equal),
    "NOT_EQUAL": Row(elementwise.not_equal, values.elementwise, to_values.not_equal),
    "LESS": Row(elementwise.less, values.elementwise, to_values.less),
    "LESS_EQUAL": Row(elementwise.less_equal, values.elementwise, to_values.less_equal),
    "GREATER": Row(elementwise.greater, values.elementwise, to_values.greater),
    "GREATER_EQUAL": Row(elementwise.greater_equal, values.elementwise, to_values.greater_equal),
    "LOGICAL_AND": Row(elementwise.logical_and, values.elementwise, to_values.logical_and),
    "LOGICAL_OR": Row(elementwise.logical_or, values.elementwise, to_values.logical_or),
    "SELECT": Row(elementwise.select, values.elementwise, to_values.select),
    "SELECT_V2": Row(elementwise.select_v2, values.elementwise, to_values.select_v2),
    "MEAN": Row(reduction.mean, values.reduction(sums=False), to_values.mean),
    "SUM": Row(reduction.total, values.reduction(sums=True), to_values.total),
    "REDUCE_MAX": Row(reduction.reduce_max, values.reduction(sums=False), to_values.reduce_max),
    "REDUCE_MIN": Row(reduction.reduce_min, values.reduction(sums=False), to_values.reduce_min),
    "REDUCE_PROD": Row(reduction.reduce_prod, values.reduction(sums=False), to_values.reduce_prod),
    "REDUCE_ANY": Row(reduction.reduce_any, values.reduction(sums=False), to_values.reduce_any),
    "REDUCE_ALL": Row(reduction.reduce_all, values.reduction(sums=False), to_values.reduce_all),
    "ARG_MAX": Row(reduction.arg_max, values.arg_extreme, to_values.arg_max),
    "ARG_MIN": Row(reduction.arg_min, values.arg_extreme, to_values.arg_min),
    "CUMSUM": Row(reduction.cumsum, values.cumsum, to_values.cumsum),
    "TOPK_V2": Row(reduction.topk_v2, opaque, to_values.topk_v2),
    "SOFTMAX": Row(reduction.softmax, values.along_last, to_values.softmax),
    "LOG_SOFTMAX": Row(reduction.log_softmax, values.along_last, to_values.log_softmax),
    "L2_NORMALIZATION": Row(reduction.l2_normalization, values.unary, to_values.l2_normalization),
    "RESHAPE": Row(shape.reshape, moves.reshape, to_moves.reshape),
    "SQUEEZE": Row(shape.squeeze, moves.reshape, to_moves.reshape),
    "EXPAND_DIMS": Row(shape.expand_dims, moves.reshape, to_moves.reshape),
    "TRANSPOSE": Row(shape.transpose, moves.transpose, to_moves.transpose),
    "CONCATENATION": Row(shape.concatenation, moves.concatenation, to_moves.concatenation),
    "PACK": Row(shape.pack, moves.pack, to_moves.pack),
    "UNPACK": Row(shape.unpack, moves.unpack, to_moves.unpack),
    "SPLIT": Row(shape.split, moves.split(data=1, axis=0), to_moves.split),
    "SPLIT_V": Row(shape.split_v, moves.split_v, to_moves.split_v),
    "SLICE": Row(shape.cut, moves.slice_, to_moves.cut),
    "STRIDED_SLICE": Row(shape.strided_slice, moves.strided_slice, to_moves.strided_slice),
    "PAD": Row(shape.pad, moves.pad, to_moves.pad),
    "PADV2": Row(shape.pad_v2, moves.pad, to_moves.pad),
    "MIRROR_PAD": Row(shape.mirror_pad, moves.same_sizes, to_moves.mirror_pad),
    "TILE": Row(shape.tile, moves.same_sizes, to_moves.tile),
    "BROADCAST_TO": Row(shape.broadcast_to, moves.same_sizes, to_moves.broadcast_to),
    "FILL": Row(shape.fill, opaque, to_moves.fill),
    "REVERSE_V2": Row(shape.reverse_v2, opaque, to_moves.reverse_v2),
    "SHAPE": Row(shape.shape_of, opaque, to_moves.shape_of),
    "RANK": Row(shape.rank, opaque, to_moves.rank),
    "RANGE": Row(shape.sequence_of_numbers, opaque, to_moves.sequence_of_numbers),
    "GATHER": Row(indexing.gather, moves.gather, to_moves.gather),
    "GATHER_ND": Row(indexing.gather_nd, opaque, to_moves.gather_nd),
    "EMBEDDING_LOOKUP": Row(indexing.embedding_lookup, moves.embedding_lookup, to_moves.embedding_lookup),
    "ONE_HOT": Row(indexing.one_hot, opaque, to_moves.one_hot),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Row(
        sequence.unidirectional_sequence_lstm, opaque, to_layers.unidirectional_sequence_lstm
    ),
}


def channels_of(graph: Graph) -> Channels:
    """The channel analysis of a graph under the table's rules."""
    return Channels(graph, lambda op: TABLE[op.name].channels if op.name in TABLE else None)
