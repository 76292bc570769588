"""``edgekd distill`` as a function: teacher and data in, student folder out."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.distill.student import StudentOptions, build_student
from edgekd.distill.teachers import Lesson, open_teacher, teacher_logits
from edgekd.distill.train import Split, Trained, TrainOptions, accuracy, predict, train
from edgekd.errors import DataError, UsageError
from edgekd.samples import TextData, read_text_data, stratified_holdout, to_ids
from edgekd.stages import Stages, Step
from edgekd.versions import versions
from edgekd_converters.quiet import import_tensorflow
from edgekd_runtime import atomic
from edgekd_runtime.preprocess import TextNgram

_FOOTPRINT_TEXTS = 20


@dataclass(frozen=True)
class DistillOptions:
    """``holdout``: the fraction of the training data that is not trained on and picks the best epoch.

    ``refit``: then train once more, on all of the data, for as many epochs. The held-out accuracy is the first run's.
    ``command``: the words that were typed, for the report.
    """

    data: Path
    output: Path
    evaluation: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    teacher: str = "minilm"
    holdout: float = 0.1
    refit: bool = True
    student: StudentOptions = field(default_factory=StudentOptions)
    training: TrainOptions = field(default_factory=TrainOptions)
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class DistillResult:
    """``report`` is the content of ``distill.json``."""

    folder: Path
    report: dict[str, Any]
    teacher_from_cache: bool


def distill(options: DistillOptions, stages: Stages | None = None) -> DistillResult:
    """Train a student under a teacher and write its folder, atomically.

    Raises ``DataError`` and ``UsageError`` for input that cannot be used, ``TeacherError`` when the teacher fails.
    """
    stages = stages or Stages(quiet=True)
    import_tensorflow()
    with stages.stage("read data"):
        data = read_text_data(options.data, options.text_column, options.label_column)
        classes = _classes(data)
        targets = data.targets(classes)
        evaluation = _read_evaluation(options)
        eval_targets = evaluation.targets(classes) if evaluation else np.empty(0, np.int32)
        preprocess = options.student.preprocessor()
        # Training rows are the caller's own: they may be longer than what a server takes from strangers.
        ids = [to_ids(preprocess, part.texts, part.path, cut=True) for part in (data, evaluation) if part]
    texts = (*data.texts, *(evaluation.texts if evaluation else ()))
    with stages.stage("teacher") as step:
        teacher, logits, from_cache = _consult(
            options, Lesson(data.texts, targets, len(classes), options.training.seed), texts, step
        )
    with stages.stage("student", steps=options.training.epochs * (1 + options.refit)) as step:
        known, asked = _splits(np.concatenate(ids), targets, eval_targets, logits)
        model, trained = _train_student(options, known, len(classes), step)
    with stages.stage("write student"):
        report = {
            "edgekd": "student",
            "command": list(options.command),
            "student": "text-ngram",
            "data": _describe(data),
            "evaluation": _describe(evaluation) if evaluation else None,
            "classes": len(classes),
            "options": {
                "teacher": options.teacher,
                "holdout": options.holdout,
                "refit": options.refit,
                "student": asdict(options.student),
                "training": asdict(options.training),
            },
            "teacher": teacher,
            "accuracy": _accuracies(model, trained, asked),
            "best_epoch": trained.best_epoch,
            "holdout_history": list(trained.history),
            "parameters": int(model.count_params()),
            "seconds": dict(stages.seconds),
            "versions": versions(),
        }
        report = _write(options.output, model, preprocess, classes, report)
    return DistillResult(options.output, report, from_cache)


def _classes(data: TextData) -> tuple[str, ...]:
    classes = data.classes()
    if len(classes) < 2:
        raise DataError(f"{data.path}: all rows carry the label {classes[0]!r}; at least two labels are needed")
    if broken := [label for label in classes if label.splitlines() != [label]]:
        raise DataError(f"{data.path}: label {broken[0]!r} holds a line break")
    return classes


def _read_evaluation(options: DistillOptions) -> TextData | None:
    if options.evaluation is None:
        return None
    return read_text_data(options.evaluation, options.text_column, options.label_column)


def _consult(
    options: DistillOptions, lesson: Lesson, texts: tuple[str, ...], step: Step
) -> tuple[dict[str, Any] | None, npt.NDArray[np.float32] | None, bool]:
    teacher = open_teacher(options.teacher)
    if teacher is None:
        return None, None, False
    logits, from_cache = teacher_logits(teacher, lesson, texts, step.advance)
    facts = {"name": teacher.name, **teacher.describe(), **asdict(teacher.footprint(texts[:_FOOTPRINT_TEXTS]))}
    return facts, logits, from_cache


def _splits(
    ids: npt.NDArray[np.int32],
    targets: npt.NDArray[np.int32],
    eval_targets: npt.NDArray[np.int32],
    logits: npt.NDArray[np.float32] | None,
) -> tuple[Split, Split]:
    n = len(targets)
    soft = (None, None) if logits is None else (logits[:n], logits[n:])
    return Split(ids[:n], targets, soft[0]), Split(ids[n:], eval_targets, soft[1])


def _train_student(options: DistillOptions, known: Split, classes: int, step: Step) -> tuple[Any, Trained]:
    held = stratified_holdout(known.targets, options.holdout, options.training.seed)
    if not held.any():
        raise UsageError(f"--holdout {options.holdout} leaves nothing to choose the best epoch by; take more")
    model = _fresh_student(options, classes)
    trained = train(model, _take(known, ~held), _take(known, held), options.training, step.advance)
    if options.refit:
        model = _fresh_student(options, classes)
        train(model, known, None, options.training, step.advance, stop_after=trained.best_epoch)
    return model, trained


def _fresh_student(options: DistillOptions, classes: int) -> Any:
    import keras

    keras.utils.set_random_seed(options.training.seed)
    return build_student(options.student, classes)


def _take(split: Split, rows: npt.NDArray[np.bool_]) -> Split:
    return Split(split.ids[rows], split.targets[rows], None if split.teacher is None else split.teacher[rows])


def _accuracies(model: Any, trained: Trained, asked: Split) -> dict[str, float | None]:
    evaluated = len(asked.targets) > 0
    return {
        "student_holdout": trained.holdout_accuracy,
        "student_eval": accuracy(predict(model, asked.ids), asked.targets) if evaluated else None,
        "teacher_eval": accuracy(asked.teacher, asked.targets) if evaluated and asked.teacher is not None else None,
    }


def _describe(data: TextData) -> dict[str, Any]:
    return {"file": data.path.name, "sha256": data.sha256, "rows": len(data)}


def _write(
    output: Path, model: Any, preprocess: TextNgram, classes: tuple[str, ...], report: dict[str, Any]
) -> dict[str, Any]:
    """The four files; gives back the report with the hashes of the other three, as it was written."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        model.save(Path(folder) / "student.keras")
        content = (Path(folder) / "student.keras").read_bytes()
    files = {
        "student.keras": content,
        "preprocess.json": _json(preprocess.to_dict()),
        "labels.txt": "".join(f"{label}\n" for label in classes).encode(),
    }
    # Last of all, and with the hashes of the rest: a folder that was written only in part is known by it.
    report = {**report, "files": {name: sha256(data).hexdigest() for name, data in files.items()}}
    files["distill.json"] = _json(report)
    try:
        for name, data in files.items():
            atomic.write_bytes(output / name, data)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror or error}") from error
    return report


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
