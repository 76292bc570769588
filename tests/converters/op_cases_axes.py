"""Cases of reductions, of ops that move, copy, cut or look up, and of recurrent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.converters.one_op import Case, Draw, Given, Maker, State, a_shape, either, fixed, ints, options


def _axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


def _reduce(dtype: str = "float32", low: float = -2) -> Maker:
    def make(draw: Draw) -> Case:
        shape = a_shape(draw)
        axes = draw(st.lists(st.integers(-len(shape), len(shape) - 1), min_size=1, max_size=3))
        return Case(options("Reducer", keepDims=draw(st.booleans())), (Given(shape, dtype, low), ints(*axes)), (dtype,))

    return make


def _arg(kind: str) -> Maker:
    def make(draw: Draw) -> Case:
        shape, dtype = a_shape(draw), draw(st.sampled_from(["int32", "int64"]))
        stated = options(kind, outputType={"int32": 2, "int64": 4}[dtype])
        return Case(stated, (Given(shape), ints(_axis(draw, len(shape)))), (dtype,))

    return make


def _cumsum(draw: Draw) -> Case:
    shape = a_shape(draw)
    stated = options("Cumsum", exclusive=draw(st.booleans()), reverse=draw(st.booleans()))
    return Case(stated, (Given(shape), np.array(_axis(draw, len(shape)), np.int32)))


def _topk_v2(draw: Draw) -> Case:
    shape = a_shape(draw)
    k = np.array(draw(st.integers(1, shape[-1])), np.int32)
    return Case(options("TopKV2"), (Given(shape), k), ("float32", "int32"))


def _softmax(draw: Draw) -> Case:
    return Case(options("Softmax", beta=draw(st.sampled_from([0.5, 1.0, 2.0]))), (Given(a_shape(draw)),))


def _reshape(draw: Draw) -> Case:
    shape = a_shape(draw)
    sizes = [*draw(st.permutations(shape)), *draw(st.sampled_from([[], [1]]))]
    if draw(st.booleans()) and len(sizes) > 1:
        last = sizes.pop()
        sizes[-1] *= last
    if draw(st.booleans()):
        sizes[draw(st.integers(0, len(sizes) - 1))] = -1
    if draw(st.booleans()):
        return Case(options("Reshape", newShape=sizes), (Given(shape),))
    return Case(options("Reshape"), (Given(shape), ints(*sizes)))


def _squeeze(draw: Draw) -> Case:
    shape = (*a_shape(draw, 1, 2), 1, 2, *draw(st.sampled_from([(), (1,)])))
    ones = [i for i, size in enumerate(shape) if size == 1]
    dims = draw(st.sampled_from([None, ones[:1], ones, [one - len(shape) for one in ones]]))
    return Case(options("Squeeze", squeezeDims=dims), (Given(shape),))


def _expand_dims(draw: Draw) -> Case:
    shape = a_shape(draw)
    return Case(options("ExpandDims"), (Given(shape), ints(_axis(draw, len(shape) + 1))))


def _transpose(draw: Draw) -> Case:
    shape = a_shape(draw, 2)
    return Case(options("Transpose"), (Given(shape), ints(*draw(st.permutations(range(len(shape)))))))


def _concatenation(draw: Draw) -> Case:
    shape = a_shape(draw)
    axis = _axis(draw, len(shape))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = list(shape)
        sizes[axis] = draw(st.integers(1, 3))
        parts.append(Given(tuple(sizes)))
    return Case(options("Concatenation", axis=axis), (parts[0], *(either(draw, part) for part in parts[1:])))


def _pack(draw: Draw) -> Case:
    given, count = Given(a_shape(draw, 1, 3)), draw(st.integers(1, 3))
    stated = options("Pack", axis=_axis(draw, len(given.shape) + 1), valuesCount=count)
    return Case(stated, (given, *(either(draw, given) for _ in range(count - 1))))


def _unpack(draw: Draw) -> Case:
    shape = a_shape(draw, 2)
    axis = _axis(draw, len(shape))
    return Case(options("Unpack", axis=axis, num=shape[axis]), (Given(shape),), ("float32",) * shape[axis])


def _split(draw: Draw) -> Case:
    shape, count = list(a_shape(draw)), draw(st.integers(1, 3))
    axis = _axis(draw, len(shape))
    shape[axis] *= count
    return Case(options("Split", numSplits=count), (ints(axis), Given(tuple(shape))), ("float32",) * count)


def _split_v(draw: Draw) -> Case:
    shape, parts = list(a_shape(draw)), draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    axis = _axis(draw, len(shape))
    shape[axis] = sum(parts)
    if draw(st.booleans()):
        parts[0] = -1
    stated = options("SplitV", numSplits=len(parts))
    return Case(stated, (Given(tuple(shape)), ints(*parts), ints(axis)), ("float32",) * len(parts))


def _slice(draw: Draw) -> Case:
    shape = a_shape(draw)
    begin = [draw(st.integers(0, size - 1)) for size in shape]
    sizes = [draw(st.sampled_from([-1, *range(1, size - start + 1)])) for size, start in zip(shape, begin, strict=True)]
    return Case(options("Slice"), (Given(shape), ints(*begin), ints(*sizes)))


def _strided_slice(draw: Draw) -> Case:
    return draw(
        st.sampled_from(
            [_strided_slice_plain, _strided_slice_plain, _strided_slice_by_length, _strided_slice_around_all]
        )
    )(draw)


def _strided_slice_by_length(draw: Draw) -> Case:
    """``end`` says how far from begin."""
    shape = a_shape(draw)
    begin = [draw(st.integers(0, size - 1)) for size in shape]
    length = [draw(st.integers(1, size - first)) for size, first in zip(shape, begin, strict=True)]
    operands = (Given(shape), ints(*begin), ints(*length), ints(*[1] * len(shape)))
    return Case(options("StridedSlice", offset=True), operands)


def _strided_slice_around_all(draw: Draw) -> Case:
    """A new axis, all axes but the last, and a part of the last; or the new axis last."""
    shape = a_shape(draw, 2)
    first = draw(st.integers(0, shape[-1] - 1))
    if draw(st.booleans()):
        stated = options("StridedSlice", newAxisMask=1, ellipsisMask=2)
        return Case(stated, (Given(shape), ints(0, 0, first), ints(0, 0, shape[-1]), ints(1, 1, 1)))
    stated = options("StridedSlice", newAxisMask=2, ellipsisMask=1)
    return Case(stated, (Given(shape), ints(0, 0), ints(0, 0), ints(1, 1)))


def _strided_slice_plain(draw: Draw) -> Case:
    """Of some leading axes, in either direction; begin and end may count from behind, or be masked."""
    shape = a_shape(draw)
    begin, end, strides, shrink = [], [], [], 0
    for i, size in enumerate(shape[: draw(st.integers(1, len(shape)))]):
        first, last = draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))
        back = first > last
        begin.append(first - draw(st.sampled_from([0, size])))
        end.append(last - 1 - size if back else last + 1)
        strides.append(draw(st.sampled_from([1, 2])) * (-1 if back else 1))
        if draw(st.booleans()):
            strides[-1], shrink = 1, shrink | 1 << i
            end[-1] = begin[-1] + 1 if begin[-1] != -1 else size
    mask = st.integers(0, 2 ** len(begin) - 1)
    masks = {"beginMask": draw(mask) & ~shrink, "endMask": draw(mask) & ~shrink, "shrinkAxisMask": shrink}
    return Case(options("StridedSlice", **masks), (Given(shape), ints(*begin), ints(*end), ints(*strides)))


def _paddings(draw: Draw, shape: tuple[int, ...], most: int) -> Any:
    return ints(*([draw(st.integers(0, min(most, n))), draw(st.integers(0, min(most, n)))] for n in shape))


def _pad(draw: Draw) -> Case:
    shape = a_shape(draw)
    return Case(options("Pad"), (Given(shape), _paddings(draw, shape, 3)))


def _pad_v2(draw: Draw) -> Case:
    shape = a_shape(draw)
    return Case(options("PadV2"), (Given(shape), _paddings(draw, shape, 3), np.array([-7.5], np.float32)))


def _mirror_pad(draw: Draw) -> Case:
    shape, mode = a_shape(draw), draw(st.integers(0, 1))
    paddings = _paddings(draw, tuple(size - (mode == 0) for size in shape), 3)
    return Case(options("MirrorPad", mode=mode), (Given(shape), paddings))


def _tile(draw: Draw) -> Case:
    shape = a_shape(draw)
    return Case(options("Tile"), (Given(shape), ints(*(draw(st.integers(1, 3)) for _ in shape))))


def _broadcast_to(draw: Draw) -> Case:
    whole = a_shape(draw)
    some = tuple(draw(st.sampled_from([1, size])) for size in whole)[draw(st.integers(0, len(whole) - 1)) :]
    return Case(options("BroadcastTo"), (Given(some), ints(*whole)))


def _fill(draw: Draw) -> Case:
    return Case(options("Fill"), (ints(*a_shape(draw)), Given(())))


def _reverse_v2(draw: Draw) -> Case:
    shape = a_shape(draw)
    return Case(options("ReverseV2"), (Given(shape), ints(_axis(draw, len(shape)))))


def _shape(draw: Draw) -> Case:
    dtype = draw(st.sampled_from(["int32", "int64"]))
    return Case(options("Shape", outType={"int32": 2, "int64": 4}[dtype]), (Given(a_shape(draw)),), (dtype,))


def _rank(draw: Draw) -> Case:
    return Case(options("Rank"), (Given(a_shape(draw)),), ("int32",))


def _range(draw: Draw) -> Case:
    start, count, step = draw(st.integers(-5, 5)), draw(st.integers(1, 5)), draw(st.sampled_from([-2, 1, 3]))
    dtype = draw(st.sampled_from(["int32", "float32"]))
    return Case(options("Range"), tuple(np.array(n, dtype) for n in (start, start + count * step, step)), (dtype,))


def _gather(draw: Draw) -> Case:
    shape = a_shape(draw)
    axis = _axis(draw, len(shape))
    shared = draw(st.integers(0, min(axis % len(shape), 2)))
    indices = Given((*shape[:shared], *a_shape(draw, 0, 2)), "int32", 0, shape[axis])
    stated = options("Gather", axis=axis, batchDims=shared)
    table, fed = Given(shape), draw(st.booleans())
    return Case(stated, (table, either(draw, indices)) if fed else (fixed(draw, table), indices))


def _gather_nd(draw: Draw) -> Case:
    shape = a_shape(draw)
    depth = draw(st.integers(1, len(shape)))
    indices = Given((*a_shape(draw, 1, 2), depth), "int32", 0, min(shape[:depth]))
    table, fed = Given(shape), draw(st.booleans())
    return Case(options("GatherNd"), (table, either(draw, indices)) if fed else (fixed(draw, table), indices))


def _embedding_lookup(draw: Draw) -> Case:
    table = fixed(draw, Given(a_shape(draw, 2, 3)))
    return Case(None, (Given((draw(st.integers(1, 5)),), "int32", 0, len(table)), table))


def _one_hot(draw: Draw) -> Case:
    shape, depth = a_shape(draw, 1, 3), draw(st.integers(1, 5))
    axis = draw(st.integers(-1, len(shape)))
    marks = (np.array(3, np.float32), np.array(-0.5, np.float32))
    return Case(options("OneHot", axis=axis), (Given(shape, "int32", 0, 6), np.array(depth, np.int32), *marks))


def _unidirectional_sequence_lstm(draw: Draw) -> Case:
    rows, steps, width, units = draw(st.integers(1, 2)), *(draw(st.integers(1, 4)) for _ in range(3))
    time_major, clip = draw(st.booleans()), draw(st.sampled_from([0.0, 0.3]))
    x = Given((steps, rows, width) if time_major else (rows, steps, width))
    weights = [fixed(draw, Given((units, width), low=-1, high=1)) for _ in range(4)]
    recurrent = [fixed(draw, Given((units, units), low=-1, high=1)) for _ in range(4)]
    bias = [fixed(draw, Given((units,))) for _ in range(4)]
    state = State((rows, units))
    operands = (x, *weights, *recurrent, *[None] * 3, *bias, None, None, state, state, *[None] * 4)
    stated = options("UnidirectionalSequenceLSTM", fusedActivationFunction=4, timeMajor=time_major, cellClip=clip)
    return Case(stated, operands)


CASES: dict[str, Maker] = {
    "MEAN": _reduce(),
    "SUM": _reduce(),
    "REDUCE_MAX": _reduce(),
    "REDUCE_MIN": _reduce(),
    "REDUCE_PROD": _reduce(),
    "REDUCE_ANY": _reduce("bool"),
    "REDUCE_ALL": _reduce("bool"),
    "ARG_MAX": _arg("ArgMax"),
    "ARG_MIN": _arg("ArgMin"),
    "CUMSUM": _cumsum,
    "TOPK_V2": _topk_v2,
    "SOFTMAX": _softmax,
    "LOG_SOFTMAX": lambda draw: Case(options("LogSoftmax"), (Given(a_shape(draw)),)),
    "L2_NORMALIZATION": lambda draw: Case(options("L2Norm"), (Given(a_shape(draw)),)),
    "RESHAPE": _reshape,
    "SQUEEZE": _squeeze,
    "EXPAND_DIMS": _expand_dims,
    "TRANSPOSE": _transpose,
    "CONCATENATION": _concatenation,
    "PACK": _pack,
    "UNPACK": _unpack,
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "PAD": _pad,
    "PADV2": _pad_v2,
    "MIRROR_PAD": _mirror_pad,
    "TILE": _tile,
    "BROADCAST_TO": _broadcast_to,
    "FILL": _fill,
    "REVERSE_V2": _reverse_v2,
    "SHAPE": _shape,
    "RANK": _rank,
    "RANGE": _range,
    "GATHER": _gather,
    "GATHER_ND": _gather_nd,
    "EMBEDDING_LOOKUP": _embedding_lookup,
    "ONE_HOT": _one_hot,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _unidirectional_sequence_lstm,
}
