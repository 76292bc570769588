"""Any stage of a model scored on data, alone or two side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.flips import find_flips
from edgekd.inputs import count
from edgekd.metrics import Score, Truth, score
from edgekd.report import SCHEMA_VERSION
from edgekd.stages import Stages
from edgekd.subject import Data, Subject, open_subject, read_data
from edgekd.verify import Run, in_turn
from edgekd_converters.divergence import is_scores
from edgekd_converters.load.source import LoadOptions


@dataclass(frozen=True)
class EvaluateOptions:
    """``data``: with labels or without; see :func:`edgekd.truth.truth_of` for models that are no classifiers."""

    data: Path
    text_column: str = "text"
    label_column: str = "label"
    labels: Path | None = None
    preprocess: Mapping[str, object] | None = None
    load: LoadOptions = field(default_factory=LoadOptions)


def evaluate(path: Path, options: EvaluateOptions, stages: Stages | None = None) -> dict[str, Any]:
    """What a model is worth: the content of ``edgekd evaluate --json``. Raises as :func:`open_subject` does."""
    stages = stages or Stages(quiet=True)
    subject, data = _open(path, options, stages)
    with stages.stage("run"):
        run = in_turn([(subject.graph, data.columns)])[0]
    found = score(run.outputs, data.truth)
    if found == Score():
        raise UsageError(f"{options.data}: has no labels (y) to judge {path} by; 'edgekd compare' goes without")
    return {
        "edgekd": "evaluation",
        "schema_version": SCHEMA_VERSION,
        "data": str(options.data),
        "sha256": data.sha256,
        "rows": count(data.columns),
        **_described(subject, run, found),
        "classes": _classes(run, data.truth, subject.labels),
    }


def compare(first: Path, second: Path, options: EvaluateOptions, stages: Stages | None = None) -> dict[str, Any]:
    """Two models on the same rows, in turn: the content of ``edgekd compare --json``.

    Raises ``UsageError`` where they do not take or give the same, and as :func:`open_subject` does.
    """
    stages = stages or Stages(quiet=True)
    sides = [_open(path, options, stages) for path in (first, second)]
    with stages.stage("run in turn"):
        runs = in_turn([(subject.graph, data.columns) for subject, data in sides])
    outputs = [subject.to_source(run.outputs) for (subject, _), run in zip(sides, runs, strict=True)]
    if outputs[0].shape != outputs[1].shape:
        shapes = " and ".join(str(list(one.shape[1:])) for one in outputs)
        raise UsageError(f"{first} and {second} give {shapes} for a row; they cannot be compared")
    truth = sides[0][1].truth
    scores = [score(run.outputs, data.truth) for (_, data), run in zip(sides, runs, strict=True)]
    against = score(outputs[1], Truth(values=None if truth.values is None else outputs[0]), outputs[0])
    labels = sides[0][0].labels or sides[1][0].labels
    flips = None
    if against.agreement is not None:
        flips = find_flips(outputs[0].argmax(1), outputs[1].argmax(1), truth.classes, labels).to_dict(labels)
    described = [_described(subject, run, found) for (subject, _), run, found in zip(sides, runs, scores, strict=True)]
    return {
        "edgekd": "comparison",
        "schema_version": SCHEMA_VERSION,
        "data": str(options.data),
        "sha256": sides[0][1].sha256,
        "rows": count(sides[0][1].columns),
        "first": described[0],
        "second": described[1],
        "agreement": against.agreement,
        "relative_rmse": against.relative_rmse,
        "flips": flips,
    }


def _open(path: Path, options: EvaluateOptions, stages: Stages) -> tuple[Subject, Data]:
    subject = open_subject(path, stages, options.load, options.labels, options.preprocess)
    with stages.stage(f"read data for {path.name}"):
        return subject, read_data(options.data, subject, options.text_column, options.label_column)


def _described(subject: Subject, run: Run, found: Score) -> dict[str, Any]:
    metrics = {name: value for name, value in asdict(found).items() if value is not None}
    return {**subject.describe(), "invoke_us": run.invoke_us, "metrics": metrics}


def _classes(run: Run, truth: Truth, labels: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """Of every class that occurs: its rows, and how many of them are answered right."""
    if truth.classes is None or not is_scores(run.outputs):
        return None
    right = run.outputs.argmax(1) == truth.classes
    return [
        {
            "number": int(number),
            "label": labels[number] if labels else None,
            "rows": int((truth.classes == number).sum()),
            "right": int(right[truth.classes == number].sum()),
        }
        for number in np.unique(truth.classes)
    ]
