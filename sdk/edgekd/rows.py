"""Samples that a program hands over one by one: written to an unnamed temporary file as they come, and mapped."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgekd.archive import ANY_INPUT
from edgekd.arrays import LABELS, ArrayData, Layouts, check_numbers, class_numbers, source_shape
from edgekd.columns import Column, array_column, as_columns, blaming
from edgekd.errors import DataError
from edgekd_converters.graph import Tensor
from edgekd_runtime.preprocess import Image, Media, Preprocess

_PATH = Path("samples")  # as messages call them


def read_rows(
    rows: Iterable[Any],
    inputs: Mapping[str, Tensor],
    classes: int | None,
    *,
    layouts: Layouts | None = None,
    preprocess: Preprocess | None = None,
) -> ArrayData:
    """An item is one sample or a batch: input name → array (``y`` for its label), an array, or a pair with its label.

    Arrays are in the source's own layout. Where there is a preprocessing of files, ``bytes``, a path, and ``uint8``
    pixels go through it. The iterable is gone through once.

    Raises ``DataError`` naming the item.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        spools = {
            name: _Spool(Path(folder) / str(number), name, tensor, (layouts or {}).get(name), preprocess)
            for number, (name, tensor) in enumerate(inputs.items())
        }
        labels: list[Any] = []
        for number, item in enumerate(rows):
            values, label = _parts(number, item, inputs)
            counts = {spools[name].add(number, value) for name, value in values.items()}
            if len(counts) > 1:
                raise DataError(f"{_PATH}: item {number} has inputs of different batch sizes")
            if label is not None:
                labels.extend(_labels(number, label, counts.pop()))
        columns = {name: spool.column() for name, spool in spools.items()}
        digest = hashlib.sha256(b"".join(spool.digest() for spool in spools.values())).hexdigest()
    count = len(next(iter(columns.values())))
    if not count:
        raise DataError(f"{_PATH}: there are none")
    if labels and len(labels) != count:
        raise DataError(f"{_PATH}: {len(labels)} of {count} have a label; either all have one or none")
    targets = class_numbers(_PATH, np.array(labels), classes) if labels and classes is not None else None
    return ArrayData(_PATH, as_columns(columns), targets, digest)


def _labels(number: int, label: Any, count: int) -> npt.NDArray[Any]:
    labels = np.ravel(label)
    if len(labels) != count:
        raise DataError(f"{_PATH}: item {number} has {len(labels)} labels for {count}")
    return labels


def _parts(number: int, item: Any, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Any], Any]:
    """The value of every input, and the label or None."""
    label = None
    if isinstance(item, tuple) and len(item) == 2:
        item, label = item
    if not isinstance(item, Mapping):
        item = {next(iter(inputs)): item}
    values = dict(item)
    if LABELS in values and LABELS not in inputs:
        label = values.pop(LABELS)
    if len(inputs) == 1 and set(values) == {ANY_INPUT}:
        values = dict.fromkeys(inputs, values[ANY_INPUT])
    if values.keys() != inputs.keys():
        have, wanted = (", ".join(map(repr, names)) or "none" for names in (values, inputs))
        raise DataError(f"{_PATH}: item {number} has {have}; the model's inputs are {wanted}")
    return values, label


class _Spool:
    """One input's samples, in the graph's layout and dtype, in a file."""

    def __init__(
        self, path: Path, name: str, tensor: Tensor, axes: tuple[int, ...] | None, preprocess: Preprocess | None
    ) -> None:
        self._path, self._name, self._axes, self._preprocess = path, name, axes, preprocess
        self._shape, self._dtype = tensor.shape[1:], np.dtype(tensor.dtype.lower())
        self._given = source_shape(tensor, axes)[1:]
        self._file: IO[bytes] = path.open("wb")
        self._hash = hashlib.sha256()
        self._count = 0

    def add(self, number: int, value: Any) -> int:
        """Write one sample, or a batch of them; how many they were."""
        batch = self._batch(f"{_PATH}: item {number}, {self._name!r}", value)
        data = np.ascontiguousarray(batch).astype(self._dtype, copy=False).tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._count += len(batch)
        return len(batch)

    def _batch(self, what: str, value: Any) -> npt.NDArray[Any]:
        """``(k, …)`` in the graph's layout."""
        if (made := self._preprocessed(what, value)) is not None:
            return made.reshape(1, *self._shape)
        array = np.asarray(value)
        batch = array[None] if array.ndim == len(self._given) else array
        if batch.shape[1:] != self._given:
            raise DataError(f"{what}: must have shape {list(self._given)}, not {list(array.shape)}")
        check_numbers(what, batch, self._dtype)
        return batch if self._axes is None else batch.transpose(self._axes)

    def _preprocessed(self, what: str, value: Any) -> npt.NDArray[np.float32] | None:
        """None for an array that is the model's own input already."""
        if not isinstance(self._preprocess, Media):
            return None
        is_pixels = isinstance(value, np.ndarray) and value.dtype == np.uint8 and isinstance(self._preprocess, Image)
        if not is_pixels and not isinstance(value, (bytes, Path)):
            return None
        with blaming(f"{what}, {value}" if isinstance(value, Path) else what):
            return self._preprocess(value.read_bytes() if isinstance(value, Path) else value)

    def column(self) -> Column:
        """All that was added. The file's name may go; the mapping keeps what it holds."""
        self._file.close()
        shape = (self._count, *self._shape)
        if not self._path.stat().st_size:
            return array_column(np.empty(shape, self._dtype), self._shape, self._dtype)
        return array_column(np.memmap(self._path, self._dtype, "r", shape=shape), self._shape, self._dtype)

    def digest(self) -> bytes:
        return self._hash.digest()
