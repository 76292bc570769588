"""What a conversion is told to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekd.errors import DataError, UsageError
from edgekd.metric import Metric
from edgekd_converters.load.equivalence import TOLERANCE
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.optimise import QuantizeOptions
from edgekd_converters.prune import PruneOptions
from edgekd_converters.recover import RecoverOptions
from edgekd_runtime.bundle import is_name


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert, with what data, into what.

    ``max_drop``: by how much int8 may be worse on ``evaluation`` than the model as it was given, in ``metric`` (see
    :func:`edgekd.metric.drop`; None takes the one that fits the data); None leaves the gate open. ``allow_fallback``:
    where full int8 does not pass, try what is less than that. ``prune_rounds``: prune and recover in turn so often, a
    share of the way each time. ``teacher``: recover under this model instead of the student as it was given. The seed
    here governs pruning and recovery too. ``labels``: names of the classes of a model that has none of its own.
    ``samples`` may be an iterable, see :func:`edgekd.rows.read_rows`. ``load``: what the model itself leaves open.
    ``preprocess``: what files of pictures or sounds go through, see :func:`edgekd.preprocessing.preprocess_for`.
    ``tolerance``: share of an output's range by which the float graph may differ from the source. ``strict``: what the
    linter finds is an error. ``command``: the words that were typed, for the report. ``ranges``: a file of ranges that
    stand, read into ``quantize``. ``io``: the type of inputs and outputs that are reals.
    """

    student: Path
    samples: Path | Iterable[Any]
    output: Path
    evaluation: Path | Iterable[Any] | None = None
    out_of_scope: Path | Iterable[Any] | None = None
    answers: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    name: str | None = None
    version: str = "1"
    max_samples: int = 1000
    max_drop: float | None = None
    metric: Metric | None = None
    allow_fallback: bool = False
    io: Literal["int8", "float32"] = "int8"
    seed: int = 0
    labels: Path | None = None
    prune: PruneOptions | None = None
    prune_rounds: int = 1
    recover: RecoverOptions | None = None
    teacher: Path | None = None
    load: LoadOptions = field(default_factory=LoadOptions)
    preprocess: Mapping[str, object] | None = None
    tolerance: float = TOLERANCE
    strict: bool = False
    command: tuple[str, ...] = ()
    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)
    ranges: Path | None = None

    def model_name(self) -> str:
        """The bundle's name. Raises ``UsageError`` if it cannot be one."""
        name = self.name or self.output.resolve().name
        for option, value in (("--name", name), ("--model-version", self.version)):
            if not is_name(value):
                raise UsageError(f"{option} {value!r}: take letters, digits, '.', '_' and '-', 128 at most")
        return name

    def check(self) -> None:
        """Raise ``UsageError`` for what can be told before any work is done."""
        if self.max_drop is not None and self.evaluation is None:
            raise UsageError("--max-drop needs --eval, a labelled file to measure the drop on")
        if self.allow_fallback and self.max_drop is None:
            raise UsageError("--allow-fallback needs --max-drop, which says when int8 is not good enough")
        if self.prune_rounds > 1 and self.prune is None:
            raise UsageError("--prune-rounds needs --prune")
        if self.recover and self.recover.steps < self.prune_rounds:
            raise UsageError(f"--recover-steps {self.recover.steps} cannot be split over {self.prune_rounds} rounds")
        if self.teacher is not None and self.recover is None:
            raise UsageError("--teacher needs --recover-steps; without training there is nothing to teach")
        used = (self.samples, self.evaluation, self.out_of_scope, self.answers, self.labels, self.teacher, self.ranges)
        for path in used:
            if isinstance(path, Path) and not path.exists():
                raise DataError(f"{path}: No such file or directory")
