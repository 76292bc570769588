"""Samples from wherever they come: array files, folders of pictures or sounds, or whatever a caller iterates over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import archive
from edgekd.arrays import ArrayData, Layouts, read_arrays
from edgekd.columns import as_columns, blaming, decoded_column
from edgekd.errors import DataError
from edgekd.rows import read_rows
from edgekd_converters.graph import Tensor
from edgekd_runtime.preprocess import MEDIA_KINDS, Media, Preprocess

_SUFFIXES = {suffix: kind for kind in MEDIA_KINDS.values() for suffix in kind.suffixes}


def read_samples(
    source: Path | Iterable[Any],
    inputs: Mapping[str, Tensor],
    classes: int | None,
    *,
    labels: tuple[str, ...] = (),
    layouts: Layouts | None = None,
    preprocess: Preprocess | None = None,
    labelled: bool = False,
    values: bool = False,
) -> ArrayData:
    """Whatever ``source`` is, as columns in the graph's layout.

    Args:
        source: ``.npz``, ``.npy``, a folder of ``.npy``, of pictures, of ``.wav``, or of such folders, one for each
            class; or an iterable, see :func:`edgekd.rows.read_rows`.
        inputs, layouts: as :func:`edgekd.arrays.read_arrays` takes them.
        classes: of a classifier; None reads no labels. ``labels``: their names, where the model has names.
        labelled: the labels will be needed; else folders that do not fit the classes only lose them.
        values: of a model that is no classifier, read ``y`` of an array file as it is.

    Raises ``DataError``.
    """
    if not isinstance(source, Path):
        return read_rows(source, inputs, classes, layouts=layouts, preprocess=preprocess)
    if source.is_dir() and not any(one.suffix.lower() == ".npy" for one in _entries(source)):
        media = _media(source, inputs, preprocess)
        return _read_folder(source, media, inputs, classes, labels, labelled)
    return read_arrays(source, inputs, classes, layouts=layouts, preprocess=preprocess, values=values)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}") from error


def _media(folder: Path, inputs: Mapping[str, Tensor], preprocess: Preprocess | None) -> Media:
    """The preprocessing, if it is one of files. Raises ``DataError`` that says what is missing."""
    if isinstance(preprocess, Media):
        if len(inputs) != 1:
            raise DataError(f"{folder}: a folder of files is for a model of one input, not {len(inputs)}")
        return preprocess
    found = {_SUFFIXES[one.suffix.lower()].media for one in folder.rglob("*") if one.suffix.lower() in _SUFFIXES}
    if found:
        medium = sorted(found)[0]
        more = ", or flags such as --image-size" if medium == "image" else ""
        raise DataError(f"{folder}: holds {medium} files; say how they become the input with --preprocess FILE{more}")
    raise DataError(f"{folder}: holds no arrays (.npy), pictures or sounds")


def _read_folder(
    folder: Path,
    preprocess: Media,
    inputs: Mapping[str, Tensor],
    classes: int | None,
    labels: tuple[str, ...],
    labelled: bool,
) -> ArrayData:
    entries = _entries(folder)
    groups = {one.name: _files(one, preprocess) for one in entries if one.is_dir()}
    groups = {name: files for name, files in groups.items() if files}
    loose = [one for one in entries if one.is_file() and one.suffix.lower() in preprocess.suffixes]
    if groups and loose:
        raise DataError(f"{folder}: holds both class folders and files that are in none, {loose[0].name!r} among them")
    files = [file for group in groups.values() for file in group] if groups else loose
    if not files:
        raise DataError(f"{folder}: holds no {preprocess.media} files ({', '.join(preprocess.suffixes)})")
    ((name, tensor),) = inputs.items()
    column = decoded_column(lambda row: _decode(preprocess, files[row]), len(files), preprocess, tensor)
    numbers, notes = _numbers(folder, list(groups), classes, labels, labelled)
    targets = None if numbers is None else np.repeat(numbers, [len(group) for group in groups.values()])
    return ArrayData(
        folder,
        as_columns({name: column}),
        targets,
        archive.hash_files(folder, files),
        files=tuple(files),
        classes=() if numbers is None else tuple(groups),
        notes=notes,
    )


def _files(folder: Path, preprocess: Media) -> list[Path]:
    found = (one for one in folder.rglob("*") if one.suffix.lower() in preprocess.suffixes)
    return sorted(one for one in found if not one.name.startswith(".") and one.is_file())


def _decode(preprocess: Media, file: Path) -> npt.NDArray[Any]:
    with blaming(str(file)):
        return preprocess.decode(file.read_bytes())


def _numbers(
    folder: Path, names: list[str], classes: int | None, labels: tuple[str, ...], labelled: bool
) -> tuple[npt.NDArray[np.int32] | None, tuple[str, ...]]:
    """The class of each folder, and what is to be told. Classes without names are the folders, sorted by theirs."""
    if classes is None or not (names or labelled):
        return None, ()
    index = {label: number for number, label in enumerate(labels or names)}
    unknown = [name for name in names if name not in index]
    if not names:
        why = f"{folder}: labels are needed, so the files must lie in folders, one for each class"
    elif unknown:
        why = f"{folder}: the model has no label {unknown[0]!r}, which a folder is named"
    elif not labels and len(names) != classes:
        why = f"{folder}: there are {len(names)} class folders and {classes} classes; --labels can say which is which"
    else:
        return np.array([index[name] for name in names], np.int32), _order_note(folder, names, labels)
    if labelled:
        raise DataError(why)
    return None, (f"{why}; no labels are read",)


def _order_note(folder: Path, names: list[str], labels: tuple[str, ...]) -> tuple[str, ...]:
    if labels or not all(name.isdigit() for name in names) or sorted(names, key=int) == names:
        return ()
    return (f"{folder}: class folders are numbered as text, as Keras and torchvision do: {', '.join(names[:3])}, …",)
