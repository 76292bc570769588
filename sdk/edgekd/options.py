"""What a conversion is told to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import UsageError
from edgekd_runtime.bundle import is_name


@dataclass(frozen=True)
class ConvertOptions:
    """``max_drop``: how much accuracy (a fraction of 1) int8 may lose on ``evaluation``; None leaves the gate open."""

    student: Path
    samples: Path
    output: Path
    evaluation: Path | None = None
    out_of_scope: Path | None = None
    answers: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    name: str | None = None
    version: str = "1"
    max_samples: int = 1000
    max_drop: float | None = None
    seed: int = 0

    def model_name(self) -> str:
        """The bundle's name, after what can be said before any work is done. Raises ``UsageError``."""
        if self.max_drop is not None and self.evaluation is None:
            raise UsageError("--max-drop needs --eval, a labelled file to measure the drop on")
        name = self.name or self.output.resolve().name
        for option, value in (("--name", name), ("--model-version", self.version)):
            if not is_name(value):
                raise UsageError(f"{option} {value!r}: take letters, digits, '.', '_' and '-', 128 at most")
        return name
