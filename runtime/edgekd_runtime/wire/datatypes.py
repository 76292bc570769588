"""The Open Inference Protocol's datatypes as numpy's, and its binary form of BYTES."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from edgekd_runtime.errors import InputError

BYTES = "BYTES"
BINARY_HEADER = "inference-header-content-length"
"""The header with the length of the JSON, where tensors follow it."""
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

_LENGTH = struct.Struct("<I")


def pack_bytes(values: Iterable[bytes]) -> bytes:
    """Each value after its length, 4 bytes little-endian: the binary form of a BYTES tensor."""
    return b"".join([part for value in values for part in (_LENGTH.pack(len(value)), value)])


def unpack_bytes(data: bytes | memoryview, count: int) -> list[bytes]:
    """The ``count`` values of a BYTES tensor. Raises ``InputError`` unless they fill ``data`` exactly."""
    values: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(data) and len(values) < count:
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0]
        values.append(bytes(data[start:at]))
    if len(values) != count or at != len(data):
        raise InputError(f"the {len(data)} bytes are not {count} values, each after its length in 4 bytes")
    return values
