"""What Keras files hold, looked at before Keras sees them: sizes that are lies, and code."""

from __future__ import annotations

import importlib
import json
import math
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd_converters.errors import LoadError, SourceNotFoundError

_SLACK_BYTES = 64 << 20
_GROWTH = 20  # weights compress to half; a bomb is a thousand times what it says
_CODE_LAYERS = frozenset({"Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"})
_KERAS = ("keras", "tf_keras", "builtins", "tensorflow")
_WEIGHTS = "model.weights.h5"
Config = dict[str, Any]


@dataclass(frozen=True)
class Archive:
    """``version``: of the Keras that wrote it. ``weight_bytes``: all arrays together."""

    config: Config
    version: str
    weight_bytes: int


def read_archive(path: Path) -> Archive:
    """Look into a ``.keras`` archive. Raises ``LoadError`` for a damaged one and for one that unpacks to too much."""
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise LoadError(f"{path}: not a .keras archive; save the model with model.save('NAME.keras')")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            config = parse_config(path, archive.read("config.json"))
            names = archive.namelist()
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
            if _WEIGHTS not in names:
                raise LoadError(f"{path}: the archive has no {_WEIGHTS}; save it with model.save('NAME.keras')")
            with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
                size = check_hdf5(path, Path(archive.extract(_WEIGHTS, folder)))
    except LoadError:
        raise
    except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError, …
        raise LoadError(f"{path}: not a .keras archive, or a damaged one: {type(error).__name__}: {error}") from error
    return Archive(config, str(metadata.get("keras_version", "")), size)


def check_hdf5(path: Path, file: Path) -> int:
    """Bytes of all arrays in an HDF5 file, of which ``path`` is the one that the user knows.

    Raises ``LoadError`` where it is damaged, reaches outside itself, or declares far more than it stores.
    """
    h5py = importlib.import_module("h5py")
    total = 0
    limit = _SLACK_BYTES + _GROWTH * file.stat().st_size
    try:
        with h5py.File(file, "r") as opened:
            links: list[tuple[str, Any]] = []
            opened.visititems_links(lambda *found: links.append(found))  # it must not raise through HDF5
            if outward := [name for name, link in links if not isinstance(link, h5py.HardLink)]:
                raise LoadError(f"{path}: {outward[0]!r} is a link to elsewhere; save the model in one file")
            arrays: list[Any] = []
            opened.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
            for item in arrays:
                if item.external or item.is_virtual:
                    raise LoadError(f"{path}: the array {item.name!r} is kept in another file; save the model in one")
                total += math.prod(item.shape or ()) * item.dtype.itemsize
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path}: the HDF5 data are damaged or cut short: {' '.join(str(error).split())}") from error
    if total > limit:
        raise LoadError(f"{path}: its arrays declare {_size(total)}, but the file has {_size(file.stat().st_size)}")
    return total


def parse_config(path: Path, text: bytes | str) -> Config:
    """A model's JSON. Raises ``LoadError``."""
    try:
        config = json.loads(text)
    except RecursionError:
        raise LoadError(f"{path}: the model's config is nested too deeply to be a model's") from None
    except ValueError as error:
        raise LoadError(f"{path}: the model's config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path}: the model's config is not a JSON object")
    return config


def require_no_code(path: Path, config: Config) -> None:
    """Raise ``LoadError`` for what would need code from the file, or code that is not part of Keras."""
    if reason := next(_code_in({key: value for key, value in config.items() if key != "compile_config"}), None):
        raise LoadError(
            f"{path}: {reason}; use Keras layers, or export the model where its code is, with model.export('FOLDER'), "
            "or say --trust if you trust the file's author"
        )


def require_weights_for(path: Path, values: int, stored_bytes: int) -> None:
    """Raise ``LoadError`` when layers want far more values than are stored; none are stored in less than a byte."""
    if values > stored_bytes + _SLACK_BYTES:
        raise LoadError(
            f"{path}: its layers declare {values:,} weights, but the file has {_size(stored_bytes)} of them"
        )


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise LoadError(f"{path}: the archive's member {member.filename!r} points out of it")
    size, total = path.stat().st_size, sum(member.file_size for member in members)
    if total > _SLACK_BYTES + _GROWTH * size:
        raise LoadError(f"{path}: a zip bomb: {_size(size)} that unpack to {_size(total)}")


def _code_in(config: Any) -> Iterator[str]:
    """What there is, layer by layer. Not recursive: the config is as deep as its author likes."""
    waiting = [("the model", config)]
    while waiting:
        owner, node = waiting.pop()
        if isinstance(node, dict):
            if reason := _code_of(owner, node):
                yield reason
            inner = node.get("config")
            named = inner.get("name") if isinstance(inner, dict) else None
            owner = f"layer {named!r}" if isinstance(named, str) else owner
            waiting += [(owner, value) for value in reversed(node.values())]
        elif isinstance(node, list):
            waiting += [(owner, value) for value in reversed(node)]


def _code_of(owner: str, node: Config) -> str | None:
    kind, inner = node.get("class_name"), node.get("config")
    if kind == "__lambda__" or _is_bytecode(node.get("value")):
        return f"{owner} holds a lambda, whose code is stored in the file"
    if not isinstance(kind, str):
        return None
    name = inner.get("name") if isinstance(inner, dict) else None
    who = f"layer {name!r}" if isinstance(name, str) else owner
    if kind in _CODE_LAYERS:
        return f"{who} is a {kind}, whose code is stored in the file"
    module, registered = node.get("module"), node.get("registered_name")
    if isinstance(module, str) and module.split(".")[0] not in _KERAS:
        what = inner if kind == "function" else kind
        return f"{who} needs {module}.{what}, which is not part of Keras"
    if isinstance(registered, str) and ">" in registered and not registered.lower().startswith("keras>"):
        return f"{who} needs {registered!r}, which is not part of Keras"
    return None


def _is_bytecode(value: Any) -> bool:
    """A function as Keras 3 writes it: its code in base64, its defaults, its closure."""
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)


def _size(count: int) -> str:
    steps = ("bytes", "kB", "MB", "GB", "TB", "PB")
    power = min(len(str(count)) - 1, 3 * len(steps) - 1) // 3
    return f"{count / 1000**power:.3g} {steps[power]}"
