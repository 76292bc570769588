"""The ``.edgekd`` file: everything the device needs, in one uncompressed zip.

Members: ``manifest.json`` (what the rest is, with the SHA-256 of each), ``model.tflite``, and where they apply
``preprocess.json``, ``labels.txt``, ``answers.json`` and ``golden.bin``: inputs with the outputs that this very model
gave when it was packed, little-endian arrays in the order that the manifest lists; ``golden_raw.bin``: some of the
files that these inputs were made of, one after the other. The model is stored, not deflated, so that it can be mapped
into memory.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgekd_runtime import atomic
from edgekd_runtime.errors import BundleError
from edgekd_runtime.preprocess import Preprocess
from edgekd_runtime.preprocess import load as load_preprocess

FORMAT_VERSION = 1
MAX_BYTES = 1 << 30
Scores = Literal["logits", "probabilities"]
_MANIFEST = "manifest.json"
_MEMBERS = ("model.tflite", "preprocess.json", "labels.txt", "answers.json", "golden.bin", "golden_raw.bin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same content gives the same bytes


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


@dataclass(frozen=True)
class Bundle:
    """A model with all that belongs to it.

    ``inputs`` and ``outputs`` map public tensor names to those inside the flatbuffer, in order. ``layouts``: of public
    tensors whose axes the source model had in another order, the permutation that takes its arrays to the flatbuffer's,
    ``(0, 2, 3, 1)`` for NCHW; callers see the source's. ``precision`` says what
    the arithmetic is (``"int8"`` always means full integer). ``scores``: what a classifier's first output is;
    probabilities are taken as they are, logits go through a softmax. ``threshold``: a top score below it is out of
    scope. ``answers``: label → language → text.
    """

    name: str
    model: bytes
    precision: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    version: str = "1"
    scores: Scores = "logits"
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    threshold: float | None = None
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    golden: Golden | None = None
    created_by: str = ""
    layouts: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("version", self.version)):
            if not is_name(value):
                raise BundleError(
                    f"{value[:99]!r} cannot be the bundle's {what}: take letters, digits, '.', '_' and '-', 128 at most"
                )
        if self.scores not in get_args(Scores):
            raise BundleError(f"scores {str(self.scores)[:40]!r} are not known; they are logits or probabilities")
        if broken := [label for label in self.labels if "\n" in label]:
            raise BundleError(f"label {broken[0]!r} holds a line break")
        for name, axes in self.layouts.items():
            if sorted(axes) != list(range(len(axes))) or not axes or axes[0] or name not in self.inputs | self.outputs:
                raise BundleError(f"tensor {name[:99]!r}: {list(axes)[:9]} is no order of its axes, the batch first")

    def save(self, path: Path) -> None:
        """Write the bundle to ``path``, atomically; the same content gives the same bytes."""
        members = self._members()
        manifest = {
            "format": "edgekd",
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "precision": self.precision,
            "inputs": self._described(self.inputs),
            "outputs": self._described(self.outputs),
            "scores": self.scores,
            "threshold": self.threshold,
            "golden": _describe_golden(self.golden) if self.golden else None,
            "created_by": self.created_by,
            "files": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in members.items()},
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, data in {_MANIFEST: _json_bytes(manifest), **members}.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
        atomic.write_bytes(path, buffer.getvalue())

    def _described(self, names: Mapping[str, str]) -> list[dict[str, Any]]:
        entries = [{"name": name, "tensor": tensor} for name, tensor in names.items()]
        return [
            {**one, "axes": list(self.layouts[one["name"]])} if one["name"] in self.layouts else one for one in entries
        ]

    def _members(self) -> dict[str, bytes]:
        members = {"model.tflite": self.model}
        if self.preprocess is not None:
            members["preprocess.json"] = _json_bytes(self.preprocess.to_dict())
        if self.labels:
            members["labels.txt"] = "".join(f"{label}\n" for label in self.labels).encode()
        if self.answers:
            members["answers.json"] = _json_bytes(self.answers)
        if self.golden:
            members["golden.bin"] = b"".join(array.tobytes() for _, _, array in _golden_arrays(self.golden))
            if self.golden.raw:
                members["golden_raw.bin"] = b"".join(self.golden.raw)
        return members


def is_name(value: str) -> bool:
    """Whether ``value`` can name a model or a version: it becomes part of paths and addresses."""
    return _NAME.fullmatch(value) is not None


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle: structure, sizes, hashes. Raises ``BundleError`` with one line; runs nothing."""
    members = _read_members(path)
    try:
        manifest = json.loads(members.pop(_MANIFEST).decode())
        if manifest["format"] != "edgekd" or manifest["format_version"] != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format {str(manifest['format'])[:40]!r} version "
                f"{str(manifest['format_version'])[:40]!r} is not known to "
                f"this runtime, which reads version {FORMAT_VERSION}; update edgekd-runtime"
            )
        _check_hashes(path, manifest["files"], members)
        return _from_members(manifest, members)
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: the bundle is damaged: {type(error).__name__}: {why}") from error


def _from_members(manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> Bundle:
    threshold = None if manifest["threshold"] is None else float(manifest["threshold"])
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is not between 0 and 1")
    return Bundle(
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        model=members["model.tflite"],
        precision=str(manifest["precision"]),
        inputs={str(entry["name"]): str(entry["tensor"]) for entry in manifest["inputs"]},
        outputs={str(entry["name"]): str(entry["tensor"]) for entry in manifest["outputs"]},
        scores=manifest.get("scores", "logits"),  # bundles from before there was a choice do not say
        labels=tuple(members.get("labels.txt", b"").decode().split("\n")[:-1]),
        preprocess=load_preprocess(json.loads(members["preprocess.json"])) if "preprocess.json" in members else None,
        threshold=threshold,
        answers=_answers(json.loads(members.get("answers.json", b"{}"))),
        golden=_read_golden(manifest["golden"], members) if manifest["golden"] else None,
        created_by=str(manifest["created_by"]),
        layouts={
            str(entry["name"]): tuple(map(int, entry["axes"]))
            for entry in (*manifest["inputs"], *manifest["outputs"])
            if "axes" in entry
        },
    )


def _answers(raw: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {str(label): {str(lang): str(text) for lang, text in texts.items()} for label, texts in raw.items()}


def _read_members(path: Path) -> dict[str, bytes]:
    """All members, after the checks that keep a hostile zip from taking memory: names, sizes, no compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            unknown = sorted(set(names) - {_MANIFEST, *_MEMBERS})
            if unknown or len(set(names)) != len(names):
                raise BundleError(
                    f"{path}: not an edgekd bundle: unexpected or repeated member {(unknown or names)[0]!r}"
                )
            if missing := {_MANIFEST, "model.tflite"} - set(names):
                raise BundleError(f"{path}: not an edgekd bundle: {sorted(missing)[0]} is missing")
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise BundleError(f"{path}: the bundle is compressed; edgekd bundles store their members as they are")
            if sum(info.file_size for info in infos) > min(MAX_BYTES, path.stat().st_size):
                raise BundleError(f"{path}: the bundle's members claim to be larger than the file")
            return {info.filename: archive.read(info) for info in infos}
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as an edgekd bundle: {error}") from error


def _check_hashes(path: Path, listed: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    if set(listed) != set(members):
        raise BundleError(f"{path}: the manifest lists {sorted(listed)}, the file holds {sorted(members)}")
    for name, data in members.items():
        if len(data) != listed[name]["bytes"] or _sha256(data) != listed[name]["sha256"]:
            raise BundleError(f"{path}: {name} does not match its SHA-256; the file is damaged, copy it again")


def _golden_arrays(golden: Golden) -> list[tuple[str, str, npt.NDArray[Any]]]:
    """(role, name, array in little-endian C order), in file order."""
    named = [("input", golden.inputs), ("output", golden.outputs)]
    return [
        (role, name, np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
        for role, arrays in named
        for name, array in arrays.items()
    ]


def _describe_golden(golden: Golden) -> dict[str, Any]:
    arrays = [
        {"role": role, "name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for role, name, array in _golden_arrays(golden)
    ]
    described = {"backend": golden.backend, "texts": list(golden.texts), "arrays": arrays}
    return {**described, "raw_bytes": [len(raw) for raw in golden.raw]} if golden.raw else described


def _read_golden(described: Mapping[str, Any], members: Mapping[str, bytes]) -> Golden:
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


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe(bundle: Bundle) -> dict[str, Any]:
    """What ``info`` prints: everything but the bulk."""
    summary = {
        key: value for key, value in vars(bundle).items() if key not in ("model", "golden", "answers", "preprocess")
    }
    return {
        **summary,
        "labels": list(bundle.labels),
        "model_bytes": len(bundle.model),
        "preprocess": bundle.preprocess.to_dict() if bundle.preprocess else None,
        "answer_languages": sorted({lang for texts in bundle.answers.values() for lang in texts}),
        "golden_samples": len(bundle.golden) if bundle.golden else 0,
    }
