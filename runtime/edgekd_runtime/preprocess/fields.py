"""A description, as ``preprocess.json`` holds it, to and from a frozen dataclass whose fields all have defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from edgekd_runtime.errors import PreprocessError

VERSION = 1
_Described = TypeVar("_Described")
_Own = TypeVar("_Own", bound="OfFiles")


class OfFiles:
    """Base of the preprocessings of files, whose ``kind`` is that of the files."""

    media: ClassVar[str]

    @classmethod
    def from_dict(cls: type[_Own], spec: Mapping[str, object]) -> _Own:
        """Read the ``preprocess.json`` form. Raises ``PreprocessError`` on unknown, missing or mistyped keys."""
        return read_fields(cls, cls.media, spec)

    def to_dict(self) -> dict[str, object]:
        """The ``preprocess.json`` form, read back by :meth:`from_dict`."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {"kind": self.media, "version": VERSION, **values}


def read_fields(cls: type[_Described], kind: str, spec: Mapping[str, object], *, whole: bool = True) -> _Described:
    """``spec`` as ``cls``; a field's default says of which type it must be.

    ``whole``: every field must be given. Raises ``PreprocessError`` for unknown, missing or mistyped keys.
    """
    defaults = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
    given = {key: value for key, value in spec.items() if key not in ("kind", "version")}
    wrong = sorted(set(given) ^ set(defaults) if whole else set(given) - set(defaults))
    if wrong:
        what = "unknown or missing keys" if whole else "unknown keys"
        raise PreprocessError(f"{kind}: {what}: {', '.join(map(repr, wrong))[:200]}")
    return cls(**{key: _typed(kind, key, value, defaults[key]) for key, value in given.items()})


def _typed(kind: str, key: str, value: object, default: object) -> Any:
    if isinstance(default, tuple) and isinstance(value, list) and all(map(_is_number, value)):
        return tuple(map(float, value))
    if isinstance(default, float) and _is_number(value):
        return float(value)  # type: ignore[arg-type]
    if isinstance(default, (bool, int, str)) and type(value) is type(default):
        return value
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise PreprocessError(f"{kind}: {key} must be {wanted.get(type(default), 'a list of numbers')}, not {value!r:.80}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def one_of(kind: str, key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``PreprocessError`` unless ``value`` is allowed."""
    if value not in allowed:
        raise PreprocessError(f"{kind}: {key} must be one of {', '.join(allowed)}, not {value!r:.40}")


def between(kind: str, key: str, value: float, low: float, high: float) -> None:
    """Raise ``PreprocessError`` unless ``low ≤ value ≤ high``."""
    if not low <= value <= high:
        raise PreprocessError(f"{kind}: {key} must be between {low} and {high}, not {value}")
