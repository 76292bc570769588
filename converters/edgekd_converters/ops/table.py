"""The table of ops: a new op is a new row."""

from __future__ import annotations

from edgekd_converters.channels import Channels, Rule, opaque
from edgekd_converters.graph import Graph
from edgekd_converters.ops import rules

RULES: dict[str, Rule] = {
    "CONV_2D": rules.conv_2d,
    "DEPTHWISE_CONV_2D": rules.depthwise_conv_2d,
    "TRANSPOSE_CONV": rules.transpose_conv,
    "FULLY_CONNECTED": rules.fully_connected,
    "BATCH_MATMUL": rules.batch_matmul,
    **dict.fromkeys(
        (
            "ADD",
            "SUB",
            "MUL",
            "DIV",
            "MAXIMUM",
            "MINIMUM",
            "SQUARED_DIFFERENCE",
            "POW",
            "FLOOR_DIV",
            "FLOOR_MOD",
            "PRELU",
            "SELECT",
            "SELECT_V2",
            "EQUAL",
            "NOT_EQUAL",
            "LESS",
            "LESS_EQUAL",
            "GREATER",
            "GREATER_EQUAL",
            "LOGICAL_AND",
            "LOGICAL_OR",
        ),
        rules.elementwise,
    ),
    **dict.fromkeys(
        (
            "RELU",
            "RELU6",
            "RELU_N1_TO_1",
            "RELU_0_TO_1",
            "LEAKY_RELU",
            "ELU",
            "TANH",
            "LOGISTIC",
            "HARD_SWISH",
            "GELU",
            "EXP",
            "LOG",
            "SQRT",
            "RSQRT",
            "SQUARE",
            "ABS",
            "NEG",
            "SIN",
            "COS",
            "FLOOR",
            "CEIL",
            "ROUND",
            "SIGN",
            "CAST",
            "LOGICAL_NOT",
            "ZEROS_LIKE",
            "L2_NORMALIZATION",
        ),
        rules.unary,
    ),
    **dict.fromkeys(
        ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), rules.spatial
    ),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX", "LOCAL_RESPONSE_NORMALIZATION"), rules.along_last),
    "SUM": rules.reduction(True),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), rules.reduction(False)),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), rules.arg_extreme),
    "CUMSUM": rules.cumsum,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), rules.reshape),
    "TRANSPOSE": rules.transpose,
    "CONCATENATION": rules.concatenation,
    "SPLIT": rules.split(1, 0),
    "SPLIT_V": rules.split_v,
    "SLICE": rules.slice_,
    "STRIDED_SLICE": rules.strided_slice,
    "PACK": rules.pack,
    "UNPACK": rules.unpack,
    **dict.fromkeys(("PAD", "PADV2"), rules.pad),
    **dict.fromkeys(("MIRROR_PAD", "TILE", "BROADCAST_TO"), rules.same_sizes),
    "GATHER": rules.gather,
    "EMBEDDING_LOOKUP": rules.embedding_lookup,
    "SPACE_TO_DEPTH": rules.depth_from_space,
    "DEPTH_TO_SPACE": rules.space_from_depth,
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), rules.spatial),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": opaque,
    **dict.fromkeys(("SHAPE", "FILL", "GATHER_ND", "ONE_HOT", "TOPK_V2", "REVERSE_V2"), opaque),
}


def channels_of(graph: Graph) -> Channels:
    """The channel analysis of a graph under the table's rules."""
    return Channels(graph, lambda op: RULES.get(op.name))
