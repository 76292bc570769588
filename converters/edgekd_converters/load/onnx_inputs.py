"""The sizes of an ONNX model's inputs: a batch of 1, what the model says, what the user says, and nothing guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgekd_converters.errors import LoadError
from edgekd_converters.load.onnx_session import Port

MOST_NUMBERS = 1 << 28
"""In one input: a gibibyte of float32."""

_KINDS = "fiub"


@dataclass(frozen=True)
class _Declared:
    """``sizes``: a number, a symbol or None where nothing is said; None as a whole where even the rank is open."""

    name: str
    dtype: np.dtype[np.generic]
    sizes: list[int | str | None] | None


def settle_inputs(model: onnx.ModelProto, given: Mapping[str, tuple[int, ...]]) -> tuple[Port, ...]:
    """Every input with all its sizes known.

    A fixed batch becomes 1 where ``given`` says so. A first axis of unknown size is the batch and becomes 1, unless
    its symbol names another axis too.
    Raises ``LoadError`` where a size remains unknown, where ``given`` contradicts the model, or names no input of it.
    """
    declared = [_declared(value) for value in model.graph.input]
    if not declared:
        raise LoadError("the model has no inputs: it computes a constant")
    names = [one.name for one in declared]
    for name in given:
        if name not in names:
            raise LoadError(f"--shape {name}: the model has no such input; it has {', '.join(map(repr, names))}")
    symbols: dict[str, int] = {}
    for one in declared:
        symbols |= _symbols_given(one, given.get(one.name))
    symbols |= dict.fromkeys(_batch_symbols(declared), 1)
    return tuple(_settle(one, symbols, given.get(one.name)) for one in declared)


def _declared(value: onnx.ValueInfoProto) -> _Declared:
    if not value.type.HasField("tensor_type"):
        raise LoadError(f"input {value.name!r} is not a tensor; export the model with plain tensors as inputs")
    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    except KeyError as error:
        raise LoadError(f"input {value.name!r} has no type; export the model again") from error
    if dtype.kind not in _KINDS or dtype.fields:
        raise LoadError(f"input {value.name!r} holds {dtype}, not numbers; export the model without that step")
    if not kind.HasField("shape"):
        return _Declared(value.name, dtype, None)
    sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim]
    return _Declared(value.name, dtype, [None if isinstance(n, int) and n <= 0 else n for n in sizes])


def _batch_symbols(declared: Sequence[_Declared]) -> set[str]:
    first = {one.sizes[0] for one in declared if one.sizes}
    later = {size for one in declared for size in (one.sizes or [])[1:]}
    return {symbol for symbol in first - later if isinstance(symbol, str)}


def _symbols_given(one: _Declared, given: tuple[int, ...] | None) -> dict[str, int]:
    if given is None or one.sizes is None:
        return {}
    return {symbol: size for symbol, size in zip(one.sizes, given, strict=False) if isinstance(symbol, str)}


def _settle(one: _Declared, symbols: Mapping[str, int], given: tuple[int, ...] | None) -> Port:
    name = one.name
    if one.sizes is None:
        if given is None:
            raise LoadError(f"input {name!r} has no known number of axes; say --shape {name}=1,… with all its sizes")
        known: list[int | None] = [None] * len(given)
    else:
        known = [symbols.get(size) if isinstance(size, str) else size for size in one.sizes]
        if known and one.sizes[0] is None:
            known[0] = 1
    shown = ", ".join(str(size or "?") for size in one.sizes or known)
    shape = tuple(size or 0 for size in known) if given is None else given
    if given is None and 0 in shape:
        example = ",".join(str(size or (224 if len(shape) == 4 else 128)) for size in shape)
        raise LoadError(f"input {name!r} has unknown sizes [{shown}]; say which, such as --shape {name}={example}")
    if given is not None and len(shape) == len(known) > 1 and shape[0] == 1:
        known[0] = 1
    fits = len(shape) == len(known) and all(old in (None, new) for old, new in zip(known, shape, strict=True))
    if not fits or min(shape, default=1) < 1:
        raise LoadError(
            f"--shape {name}={','.join(map(str, shape))}: the model's input is [{shown}], with a batch of 1"
        )
    if math.prod(shape) > MOST_NUMBERS:
        raise LoadError(f"input {name!r} declares {math.prod(shape):,} numbers; at most {MOST_NUMBERS:,} can be fed")
    return Port(name, one.dtype, shape)
