"""What the linter says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """``code`` names the kind and does not change; ``message`` is one plain sentence; ``figures`` are what it rests on.

    An ``error`` makes the samples useless, a ``warning`` most likely makes the result worse.
    """

    code: str
    severity: Literal["warning", "error"]
    message: str
    figures: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the report; every figure is finite."""
        return asdict(self)


def warning(code: str, message: str, **figures: Any) -> Finding:
    return Finding(code, "warning", message, figures)


def error(code: str, message: str, **figures: Any) -> Finding:
    return Finding(code, "error", message, figures)
