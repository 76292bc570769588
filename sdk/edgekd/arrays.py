"""Tensor data as people have it: arrays by the names of the inputs, and ``y`` for the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.archive import ANY_INPUT, Archive, open_archive
from edgekd.columns import Column, array_column, as_columns, chunks, pixel_column
from edgekd.errors import DataError
from edgekd_converters.graph import Tensor
from edgekd_converters.observe import Columns
from edgekd_runtime.preprocess import Image, Preprocess

LABELS = "y"

Layouts = Mapping[str, tuple[int, ...]]
"""Input name → the axes that take the source's array to the graph's, where the two differ."""


@dataclass(frozen=True)
class ArrayData:
    """``columns``: input name → ``(n, …)`` in the graph's layout and dtype. ``labels``: ``(n,) int32`` or None.

    ``files``: where row i was read from, if every row is a file. ``classes``: names that the data itself gives to the
    classes, if it does. ``values``: ``y`` of a model that is no classifier, as it stands in the file.
    """

    path: Path
    columns: Columns
    labels: npt.NDArray[np.int32] | None
    sha256: str
    files: tuple[Path, ...] = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    values: npt.NDArray[Any] | None = None


def read_arrays(
    path: Path,
    inputs: Mapping[str, Tensor],
    classes: int | None,
    *,
    layouts: Layouts | None = None,
    preprocess: Preprocess | None = None,
    values: bool = False,
) -> ArrayData:
    """Read arrays named as the model's ``inputs``; of a single input, ``x`` will do. Axes are in the source's order.

    Numbers are taken as they are, never rescaled: integers for a float32 input become the same numbers in float32. Only
    ``uint8`` pixels, ``(n, h, w, 3 or 1)``, are put through an image preprocessing if there is one.
    ``y`` is read only where the model is a classifier of ``classes``, or where ``values`` are asked for, and has no
    input of that name.

    Raises ``DataError`` naming file and array.
    """
    archive = open_archive(path)
    notes: list[str] = []
    columns = {
        name: _column(archive, name, tensor, len(inputs) == 1, (layouts or {}).get(name), preprocess, notes)
        for name, tensor in inputs.items()
    }
    wanted = (classes is not None or values) and LABELS not in inputs and LABELS in archive.names
    labels = archive.read(LABELS) if wanted else None
    counts = {name: len(column) for name, column in columns.items()}
    if labels is not None:
        counts[LABELS] = len(labels) if labels.ndim else 0
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: the arrays differ in rows: {', '.join(f'{n} has {k}' for n, k in counts.items())}")
    if not min(counts.values()):
        raise DataError(f"{path}: the file holds no rows")
    targets = None if labels is None or classes is None else class_numbers(path, labels, classes)
    return ArrayData(
        path,
        as_columns(columns),
        targets,
        archive.sha256(),
        notes=(*archive.notes, *notes),
        values=labels if classes is None else None,
    )


def _column(
    archive: Archive,
    name: str,
    tensor: Tensor,
    single: bool,
    axes: tuple[int, ...] | None,
    preprocess: Preprocess | None,
    notes: list[str],
) -> Column:
    path = archive.path
    key = ANY_INPUT if single and name not in archive.names and ANY_INPUT in archive.names else name
    if key not in archive.names:
        hint = f" or {ANY_INPUT!r}" if single else ""
        have = ", ".join(map(repr, archive.names)) or "none"
        raise DataError(f"{path}: there is no array {name!r}{hint} for the model's input; the arrays are: {have}")
    array = archive.read(key)
    if isinstance(preprocess, Image) and array.dtype == np.uint8:
        notes.append(f"{path}: {key!r} holds pixels (uint8), which go through the preprocessing")
        return pixel_column(f"{path}: {key!r}", array, preprocess, tensor)
    if preprocess is not None:
        notes.append(f"{path}: {key!r} holds {array.dtype}, taken as the model's own input without preprocessing")
    shape = source_shape(tensor, axes)
    if array.shape[1:] != shape[1:] or array.ndim != len(shape):
        wanted = ", ".join(["n", *map(str, shape[1:])])
        raise DataError(f"{path}: {key!r} must have shape [{wanted}], not {list(array.shape)}{_turned(array, shape)}")
    dtype = np.dtype(tensor.dtype.lower())
    check_numbers(f"{path}: {key!r}", array, dtype)
    return array_column(array, tensor.shape[1:], dtype, axes)


def _turned(array: npt.NDArray[Any], shape: Sequence[int]) -> str:
    """A hint for pictures whose channels are at the other end."""
    for order, name in (((0, 3, 1, 2), "last"), ((0, 2, 3, 1), "first")):
        if array.ndim == len(shape) == 4 and tuple(array.shape[axis] for axis in order[1:]) == tuple(shape[1:]):
            return f"; its channels come {name}: array.transpose{order} puts them where the model has them"
    return ""


def source_shape(tensor: Tensor, axes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape, batch included, that an input has in the source's own layout."""
    if axes is None:
        return tensor.shape
    return tuple(tensor.shape[axes.index(axis)] for axis in range(len(axes)))


def check_numbers(what: str, array: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Raise ``DataError`` when ``dtype`` cannot hold the numbers. They are looked through once, part by part."""
    if array.dtype != dtype and array.dtype.kind not in {"f": "fiu", "i": "iu", "u": "iu"}.get(dtype.kind, ""):
        raise DataError(f"{what} must be {dtype}, not {array.dtype}")
    if dtype.kind not in "fiu" or not array.size:
        return
    if array.dtype == dtype and dtype.kind != "f":
        return
    # The least and the greatest of every part; NaN is passed on by both.
    ends = [(part.min(), part.max()) for part in chunks(array)]
    low, high = np.min([low for low, _ in ends]), np.max([high for _, high in ends])
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if not np.isfinite([low, high]).all():
        raise DataError(f"{what} holds NaN or infinity")
    if low < limits.min or high > limits.max:
        raise DataError(f"{what} holds numbers that {dtype} cannot ({low} to {high})")


def class_numbers(path: Path, labels: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int32]:
    """``(n,)`` numbers of classes, checked. Raises ``DataError``."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {LABELS!r} must be integers of shape [n], not {labels.dtype} {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path}: {LABELS!r} runs from {labels.min()} to {labels.max()}; the model's classes are 0 to {classes - 1}"
        )
    return labels.astype(np.int32)
