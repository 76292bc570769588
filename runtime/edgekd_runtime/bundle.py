"""The ``.edgekd`` file: everything the device needs, in one uncompressed zip.

Members: ``manifest.json`` (what the rest is, with the SHA-256 of each), ``model.tflite``, and where they apply
``preprocess.json``, ``labels.txt``, ``answers.json`` and ``golden.bin``: inputs with the outputs that this very model
gave when it was packed, little-endian arrays in the order that the manifest lists; ``golden_raw.bin``: some of the
files that these inputs were made of, one after the other; ``signature.json``: who vouches for the manifest, and by its
hashes for the rest (:mod:`edgekd_runtime.signing`). The model is stored, not deflated, so that it can be mapped into
memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edgekd_runtime import members as zipped
from edgekd_runtime.errors import BundleError
from edgekd_runtime.golden import Golden as Golden  # a part of the bundle: whoever makes one takes it from here
from edgekd_runtime.golden import read_golden
from edgekd_runtime.preprocess import Preprocess
from edgekd_runtime.preprocess import load as load_preprocess
from edgekd_runtime.signing import ANYBODY, Trust

FORMAT_VERSION = 1
Scores = Literal["logits", "probabilities"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Bundle:
    """A model with all that belongs to it.

    ``inputs`` and ``outputs`` map public tensor names to those inside the flatbuffer, in order. ``layouts``: of public
    tensors whose axes the source model had in another order, the permutation that takes its arrays to the flatbuffer's,
    ``(0, 2, 3, 1)`` for NCHW; callers see the source's. ``grids``: scale and zero point of the int8 form of inputs,
    also of those that the model takes as reals. ``precision`` says what the arithmetic is (``"int8"`` always means full
    integer), ``precision_note`` the same in a sentence. ``scores``: what a classifier's first output is; probabilities
    are taken as they are, logits go through a softmax. ``threshold``: a top score below it is out of scope.
    ``answers``: label → language → text. ``signed_by``: the trusted key whose signature was checked when it was read;
    saving it again takes the signature off.
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
    signed_by: str = ""
    precision_note: str = ""
    grids: dict[str, tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("version", self.version)):
            if not is_name(value):
                raise BundleError(
                    f"{value[:99]!r} cannot be the bundle's {what}: take letters, digits, '.', '_' and '-', 128 at most"
                )
        if not self.precision.isprintable():  # it stands in lines of logs and of /metrics
            raise BundleError(f"{self.precision[:40]!r} cannot be the bundle's precision: it is no line of text")
        if self.scores not in get_args(Scores):
            raise BundleError(f"scores {str(self.scores)[:40]!r} are not known; they are logits or probabilities")
        if broken := [label for label in self.labels if "\n" in label]:
            raise BundleError(f"label {broken[0]!r} holds a line break")
        for name, (scale, zero_point) in self.grids.items():
            if not (math.isfinite(scale) and scale > 0 and -128 <= zero_point <= 127 and name in self.inputs):
                raise BundleError(f"input {name[:99]!r}: scale {scale} and zero point {zero_point} are none of int8")
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
            "precision_note": self.precision_note,
            "inputs": self._described(self.inputs),
            "outputs": self._described(self.outputs),
            "scores": self.scores,
            "threshold": self.threshold,
            "golden": self.golden.described() if self.golden else None,
            "created_by": self.created_by,
            "files": zipped.hashes(members),
        }
        zipped.write_members(path, {zipped.MANIFEST: _json_bytes(manifest), **members})

    def _described(self, names: Mapping[str, str]) -> list[dict[str, Any]]:
        entries = []
        for name, tensor in names.items():
            entry: dict[str, Any] = {"name": name, "tensor": tensor}
            if name in self.layouts:
                entry["axes"] = list(self.layouts[name])
            if name in self.grids:
                entry["scale"], entry["zero_point"] = self.grids[name]
            entries.append(entry)
        return entries

    def _members(self) -> dict[str, bytes]:
        members = {zipped.MODEL: self.model}
        if self.preprocess is not None:
            members["preprocess.json"] = _json_bytes(self.preprocess.to_dict())
        if self.labels:
            members["labels.txt"] = "".join(f"{label}\n" for label in self.labels).encode()
        if self.answers:
            members["answers.json"] = _json_bytes(self.answers)
        return {**members, **self.golden.members()} if self.golden else members


def is_name(value: str) -> bool:
    """Whether ``value`` can name a model or a version: it becomes part of paths and addresses."""
    return _NAME.fullmatch(value) is not None


def load_bundle(path: Path, trust: Trust = ANYBODY) -> Bundle:
    """Read and check a bundle: structure, sizes, who signed it, hashes. Runs nothing of it.

    Raises ``BundleError`` with one line, ``SignatureError`` where the signature is not what ``trust`` asks.
    """
    members = zipped.read_members(path)
    signature, described = members.pop(zipped.SIGNATURE, None), members.pop(zipped.MANIFEST)
    signed_by = trust.check(path, described, signature)
    try:
        manifest = _read_json(described)
        if manifest["format"] != "edgekd" or manifest["format_version"] != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format {str(manifest['format'])[:40]!r} version "
                f"{str(manifest['format_version'])[:40]!r} is not known to "
                f"this runtime, which reads version {FORMAT_VERSION}; update edgekd-runtime"
            )
        zipped.check_hashes(path, manifest["files"], members)
        return _from_members(manifest, members, signed_by)
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: the bundle is damaged: {type(error).__name__}: {why}") from error


def _from_members(manifest: Mapping[str, Any], members: Mapping[str, bytes], signed_by: str) -> Bundle:
    threshold = None if manifest["threshold"] is None else float(manifest["threshold"])
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is not between 0 and 1")
    return Bundle(
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        model=members[zipped.MODEL],
        precision=str(manifest["precision"]),
        precision_note=str(manifest.get("precision_note", "")),  # bundles from before there was anything to note
        inputs={str(entry["name"]): str(entry["tensor"]) for entry in manifest["inputs"]},
        outputs={str(entry["name"]): str(entry["tensor"]) for entry in manifest["outputs"]},
        scores=manifest.get("scores", "logits"),  # bundles from before there was a choice do not say
        labels=tuple(members.get("labels.txt", b"").decode().split("\n")[:-1]),
        preprocess=load_preprocess(_read_json(members["preprocess.json"])) if "preprocess.json" in members else None,
        threshold=threshold,
        answers=_answers(_read_json(members.get("answers.json", b"{}"))),
        golden=read_golden(manifest["golden"], members) if manifest["golden"] else None,
        created_by=str(manifest["created_by"]),
        layouts={
            str(entry["name"]): tuple(map(int, entry["axes"]))
            for entry in (*manifest["inputs"], *manifest["outputs"])
            if "axes" in entry
        },
        signed_by=signed_by,
        grids={
            str(entry["name"]): (float(entry["scale"]), int(entry["zero_point"]))
            for entry in manifest["inputs"]
            if "scale" in entry
        },
    )


def _answers(raw: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {str(label): {str(lang): str(text) for lang, text in texts.items()} for label, texts in raw.items()}


def _read_json(data: bytes) -> Any:
    """Raises ``ValueError``, also for half a surrogate pair (``\\ud800``): a text with it could be sent to nobody."""
    value = json.loads(data.decode())
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def describe(bundle: Bundle) -> dict[str, Any]:
    """What ``info`` prints: everything but the bulk."""
    summary = {
        key: value for key, value in vars(bundle).items() if key not in ("model", "golden", "answers", "preprocess")
    }
    return {
        **summary,
        "labels": list(bundle.labels),
        "signed_by": bundle.signed_by or None,
        "precision_note": bundle.precision_note or None,
        "model_bytes": len(bundle.model),
        "preprocess": bundle.preprocess.to_dict() if bundle.preprocess else None,
        "answer_languages": sorted({lang for texts in bundle.answers.values() for lang in texts}),
        "golden_samples": len(bundle.golden) if bundle.golden else 0,
    }
