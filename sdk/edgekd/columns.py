"""Columns of samples that are read when they are asked for, so that any number of them takes the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError, MissingExtraError
from edgekd_converters.graph import Tensor
from edgekd_converters.observe import Columns
from edgekd_runtime import errors
from edgekd_runtime.preprocess import Image, Media

Rows = npt.NDArray[np.int64]
_CHUNK_BYTES = 32 << 20
_KEPT_BYTES = 1 << 28


class Column:
    """``(n, …)``: what a stage asks of an array of samples, its shape and dtype, its length, and rows by number.

    ``column[3]``, ``column[3:7]`` and ``column[numbers]`` are arrays in memory; :meth:`select` reads nothing yet.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, read: Callable[[Rows], npt.NDArray[Any]], rows: Rows
    ) -> None:
        """``shape``: of one sample. ``read``: row numbers → those samples. ``rows``: the rows that the column has."""
        self.shape = (len(rows), *shape)
        self.dtype = np.dtype(dtype)
        self.ndim = len(self.shape)
        self._read, self._rows = read, rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        chosen = self._rows[rows]
        if np.ndim(chosen) == 0:
            single: npt.NDArray[Any] = self._checked(self._read(chosen[None]))[0]
            return single
        return self._checked(self._read(chosen))

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole: npt.NDArray[Any] = self[:].astype(dtype or self.dtype, copy=False)
        return whole

    def select(self, rows: Any) -> Column:
        """Those rows, still unread."""
        return Column(self.shape[1:], self.dtype, self._read, self._rows[rows])

    def _checked(self, read: npt.NDArray[Any]) -> npt.NDArray[Any]:
        assert (read.shape[1:], read.dtype) == (self.shape[1:], self.dtype), "a reader broke its promise"
        return read


def as_columns(columns: Mapping[str, Column]) -> Columns:
    """Stages index columns and ask for shape, dtype and length, which is what a :class:`Column` has of an array."""
    return cast(Columns, dict(columns))


def array_column(
    array: npt.NDArray[Any], shape: tuple[int, ...], dtype: npt.DTypeLike, axes: tuple[int, ...] | None = None
) -> Column:
    """Rows of ``array``, mapped or in memory, transposed by ``axes`` (batch included) and cast as they are read.

    ``shape``: of one sample, as it comes out.
    """
    turned = array if axes is None else array.transpose(axes)
    wanted = np.dtype(dtype)

    def read(rows: Rows) -> npt.NDArray[Any]:
        return np.ascontiguousarray(turned[rows]).astype(wanted, copy=False).reshape(len(rows), *shape)

    return Column(shape, wanted, read, np.arange(len(array)))


def pixel_column(what: str, pixels: npt.NDArray[Any], preprocess: Image, tensor: Tensor) -> Column:
    """``(n, h, w, 3 or 1) uint8`` → what the preprocessing makes of each. Raises ``DataError``."""
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not pixels.size:
        raise DataError(f"{what}: pixels (uint8) must have shape [n, height, width, 3 or 1], not {list(pixels.shape)}")

    def decode(row: int) -> npt.NDArray[Any]:
        with blaming(f"{what}, row {row}"):
            return preprocess.decode(pixels[row])

    return decoded_column(decode, len(pixels), preprocess, tensor)


def decoded_column(decode: Callable[[int], npt.NDArray[Any]], count: int, preprocess: Media, tensor: Tensor) -> Column:
    """``count`` samples, of which ``decode`` gives one by its number, before it is put in the model's own range.

    What was decoded once is kept, as far as ``_KEPT_BYTES`` go: stages read samples over and over.
    """
    shape, dtype = tensor.shape[1:], np.dtype(tensor.dtype.lower())
    kept: dict[int, npt.NDArray[Any]] = {}
    room = _KEPT_BYTES

    def one(row: int) -> npt.NDArray[Any]:
        nonlocal room
        if row not in kept:
            made = decode(row)
            if made.nbytes > room:
                return made
            kept[row] = made
            room -= made.nbytes
        return kept[row]

    def read(rows: Rows) -> npt.NDArray[Any]:
        if not len(rows):
            return np.empty((0, *shape), dtype)
        made = np.stack([one(int(row)) for row in rows])
        return preprocess.finish(made).reshape(len(rows), *shape).astype(dtype, copy=False)

    return Column(shape, dtype, read, np.arange(count))


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """While one sample is read and decoded: what goes wrong is the fault of ``what``, as the SDK's own errors."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{what}: {error.strerror or error}") from error
    except errors.InputError as error:
        raise DataError(f"{what}: {error}") from error
    except errors.MissingExtraError as error:
        raise MissingExtraError(str(error)) from error


def chunks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """All rows of ``array``, some megabytes at a time."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    return (array[start : start + rows] for start in range(0, len(array), rows))


def select(columns: Columns, rows: Any) -> Columns:
    """Those rows of every column, unread where columns are."""
    return {name: _select(column, rows) for name, column in columns.items()}


def _select(column: Any, rows: Any) -> Any:
    return column.select(rows) if isinstance(column, Column) else column[rows]
