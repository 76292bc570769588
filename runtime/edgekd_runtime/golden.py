"""Recorded answers of a bundle: arrays in ``golden.bin``, files in ``golden_raw.bin``, what is what in the manifest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import BundleError

_DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


@dataclass(frozen=True)
class Golden:
    """Recorded answers. ``inputs``, ``outputs``: public tensor name → ``(n, …)`` in the stored dtype, batch first.

    ``texts[i]`` or ``raw[i]``, the bytes of a file, is what sample i was made of, where that was packed too: of files
    only some are, and the others' bytes are empty.
    """

    inputs: dict[str, npt.NDArray[Any]]
    outputs: dict[str, npt.NDArray[Any]]
    backend: str
    texts: tuple[str, ...] = ()
    raw: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.outputs.values()), ()))

    def members(self) -> dict[str, bytes]:
        """The bundle's files that hold it."""
        files = {"golden.bin": b"".join(array.tobytes() for _, _, array in self._arrays())}
        return {**files, "golden_raw.bin": b"".join(self.raw)} if self.raw else files

    def described(self) -> dict[str, Any]:
        """What the manifest says of it."""
        arrays = [
            {"role": role, "name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
            for role, name, array in self._arrays()
        ]
        described = {"backend": self.backend, "texts": list(self.texts), "arrays": arrays}
        return {**described, "raw_bytes": [len(raw) for raw in self.raw]} if self.raw else described

    def _arrays(self) -> list[tuple[str, str, npt.NDArray[Any]]]:
        """(role, name, array in little-endian C order), in file order."""
        named = [("input", self.inputs), ("output", self.outputs)]
        return [
            (role, name, np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
            for role, arrays in named
            for name, array in arrays.items()
        ]


def read_golden(described: Mapping[str, Any], members: Mapping[str, bytes]) -> Golden:
    """The manifest's description and the bundle's files → arrays. Raises ``BundleError``, ``ValueError`` and kin."""
    data = members["golden.bin"]
    roles: dict[str, dict[str, npt.NDArray[Any]]] = {"input": {}, "output": {}}
    offset = 0
    for entry in described["arrays"]:
        if entry["dtype"] not in _DTYPES:
            raise BundleError(f"golden.bin: dtype {str(entry['dtype'])[:40]!r} is not one of {', '.join(_DTYPES)}")
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        shape = tuple(entry["shape"])
        if not shape or not all(type(size) is int and size >= 1 for size in shape):
            raise BundleError(f"golden.bin: {str(shape)[:40]} is not a shape")
        count = math.prod(shape)
        array = np.frombuffer(data, dtype, count, offset).reshape(shape)  # raises when the data are too short
        roles[entry["role"]][str(entry["name"])] = array.astype(dtype.newbyteorder("="))
        offset += array.nbytes
    if offset != len(data):
        raise BundleError("golden.bin is longer than the manifest says")
    texts = tuple(str(text) for text in described["texts"])
    raw = _read_raw(described.get("raw_bytes", []), members.get("golden_raw.bin", b""))
    return Golden(roles["input"], roles["output"], str(described["backend"]), texts, raw)


def _read_raw(lengths: list[Any], data: bytes) -> tuple[bytes, ...]:
    if not all(type(length) is int and length >= 0 for length in lengths) or sum(lengths) != len(data):
        raise BundleError("golden_raw.bin is not as long as the manifest says")
    ends = list(itertools.accumulate(lengths))
    return tuple(data[end - length : end] for length, end in zip(lengths, ends, strict=True))
