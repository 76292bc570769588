"""One tensor of the Open Inference Protocol, as JSON numbers or as raw bytes after the JSON.

The binary form: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/binary_extension.md
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import InputError
from edgekd_runtime.wire.datatypes import BYTES, DATATYPES, DTYPES, unpack_bytes

MAX_RANK = 8
MAX_NAME = 256

_MAX_VALUES = 1 << 32
_MANY = 128  # values, from which on it pays to look at all at once
_LIST_HEAD = 5
_MARSHALLED = {
    ord("i"): np.dtype([("type", "u1"), ("value", "<i4")]),
    ord("g"): np.dtype([("type", "u1"), ("value", "<f8")]),
}
_ON_THE_WIRE = {datatype: dtype.newbyteorder("<") for datatype, dtype in DTYPES.items()}


class Tensor(NamedTuple):
    """``data``: the values in C order, or None where ``size`` bytes stand for them behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None
    size: int


def parse(entry: Mapping[str, Any]) -> Tensor:
    """One object of ``inputs`` or ``outputs``. Raises ``InputError`` naming the tensor."""
    name, datatype = entry.get("name"), entry.get("datatype")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise InputError(f"every input needs a 'name' of at most {MAX_NAME} characters")
    if not isinstance(datatype, str) or (datatype not in DTYPES and datatype != BYTES):
        raise InputError(f"input {name!r}: datatype {str(datatype)[:40]!r} is not one of {', '.join([*DTYPES, BYTES])}")
    shape = _shape(name, entry)
    size = parameters(entry, f"input {name!r}").get("binary_data_size")
    if size is None:
        return Tensor(name, datatype, shape, _flat(name, entry, shape), 0)
    if type(size) is not int or size < 0:
        raise InputError(f"input {name!r}: 'binary_data_size' must be a whole number")
    if "data" in entry:
        raise InputError(f"input {name!r} has both 'data' and 'binary_data_size'")
    if datatype != BYTES and size != math.prod(shape) * DTYPES[datatype].itemsize:
        needed = math.prod(shape) * DTYPES[datatype].itemsize
        raise InputError(f"input {name!r}: {datatype} of shape {list(shape)} has {needed} bytes, not {size}")
    return Tensor(name, datatype, shape, None, size)


def parameters(entry: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The object ``parameters`` of a request or of a tensor, empty if there is none. Unknown ones are ignored."""
    found = entry.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{where}: 'parameters' must be an object")
    return found


def _shape(name: str, entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise InputError(f"input {name!r}: 'shape' must be a list of whole numbers")
    if not 1 <= len(shape) <= MAX_RANK:
        raise InputError(f"input {name!r}: 'shape' must have 1 to {MAX_RANK} sizes, not {len(shape)}")
    if math.prod([size or 1 for size in shape]) > _MAX_VALUES:  # numpy counts so too
        raise InputError(f"input {name!r}: shape {list(shape)} is too large")
    return tuple(shape)


def _flat(name: str, entry: Mapping[str, Any], shape: Sequence[int]) -> list[Any]:
    data = entry.get("data")
    if not isinstance(data, list):
        raise InputError(f"input {name!r}: 'data' must be a list")
    for _ in shape[1:]:
        if not data or not isinstance(data[0], list):
            break
        if not all(isinstance(row, list) for row in data):
            raise InputError(f"input {name!r}: 'data' is nested unevenly")
        data = [value for row in data for value in row]
    if len(data) != math.prod(shape):
        raise InputError(f"input {name!r}: shape {list(shape)} needs {math.prod(shape)} values, 'data' has {len(data)}")
    return data


def array(tensor: Tensor, part: memoryview) -> npt.NDArray[Any]:
    """Its values, ``shape``, in the datatype's dtype. ``part``: its bytes, where it has no ``data``."""
    dtype = _ON_THE_WIRE.get(tensor.datatype)
    if dtype is None:
        raise InputError(f"input {tensor.name!r} must hold numbers, not {tensor.datatype}")
    if tensor.data is not None:
        return numbers(f"input {tensor.name!r}", tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)
    values: npt.NDArray[Any] = np.ndarray(tensor.shape, dtype, part)
    if tensor.datatype == "BOOL" and (values.view(np.uint8) > 1).any():
        raise InputError(f"input {tensor.name!r}: a BOOL is a byte of 0 or 1")
    return values


def numbers(where: str, data: list[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """JSON's numbers or booleans, strictly those of ``dtype`` → ``(n,)``. Raises ``InputError``."""
    at_once = _at_once(data, dtype) if len(data) >= _MANY else None
    if at_once is not None:
        return at_once
    wanted = {int, float} if dtype.kind == "f" else {bool} if dtype.kind == "b" else {int}
    datatype = DATATYPES[dtype]
    if not wanted.issuperset(map(type, data)):
        strange = next(value for value in data if type(value) not in wanted)
        raise InputError(f"{where}: {str(strange)[:40]!r} is not a value of datatype {datatype}")
    if dtype.kind in "iu" and data and not np.iinfo(dtype).min <= min(data) <= max(data) <= np.iinfo(dtype).max:
        raise InputError(f"{where}: a value does not fit datatype {datatype}")
    try:
        with np.errstate(over="ignore"):
            return np.array(data, dtype)
    except (OverflowError, ValueError) as error:
        raise InputError(f"{where}: a value does not fit datatype {datatype}") from error


def _at_once(data: list[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """:func:`numbers` where all values are integers of 32 bits, or all floats, and fit; else None.

    CPython's own serialiser writes a list as ``[``, its length and for each value one byte that says its type and
    the value. So one look at these bytes tells all types, and they hold the array: four times faster than value by
    value. Were they written otherwise one day, that would be None, too.
    """
    written = marshal.dumps(data, 2)  # version 2 has no references
    entry = _MARSHALLED.get(written[_LIST_HEAD])
    if entry is None or len(written) != _LIST_HEAD + len(data) * entry.itemsize:
        return None
    entries = np.frombuffer(written, entry, offset=_LIST_HEAD)
    if (entries["type"] != written[_LIST_HEAD]).any():
        return None
    values: npt.NDArray[Any] = entries["value"]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    if dtype.kind == "b" or values.dtype.kind == "f":
        return None
    limits = np.iinfo(dtype)
    return values.astype(dtype) if limits.min <= values.min() and values.max() <= limits.max else None


def raw_values(tensor: Tensor, part: memoryview) -> list[Any]:
    """Of a BYTES tensor: texts of its ``data``, or the bytes. Raises ``InputError``."""
    if tensor.datatype != BYTES:
        raise InputError(f"input {tensor.name!r} must have datatype BYTES, not {tensor.datatype!r}")
    if tensor.data is None:
        try:
            return unpack_bytes(part, math.prod(tensor.shape))
        except InputError as error:
            raise InputError(f"input {tensor.name!r}: {error}") from error
    if not all(isinstance(value, str) for value in tensor.data):
        raise InputError(f"input {tensor.name!r}: 'data' must hold texts")
    return tensor.data
