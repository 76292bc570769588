"""What the float model itself says about the samples: does it answer them as a trained model answers what it knows?

Labels tell it best, but calibration data seldom have any. Without them *decisiveness* stands in: how much an answer
tells about which sample it was given for, ``H(mean p) − mean H(p)``, the mutual information of sample and class. It is
near 0 when all samples get one answer (data divided by 255 once too often vanish beside the biases) and when none gets
a clear one, and it is greatest on data like those of the training. The samples are tried as they are and as the usual
normalisations would make them; the model is compared with itself, so no threshold depends on the task.

One thing decisiveness cannot do: louder input makes any answer surer, right or wrong. So a *louder* variant counts only
where the samples leave the model all but mute, a quieter or equal one wherever it is clearly the more decisive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.finding import Finding, warning
from edgekd.fits import public_inputs
from edgekd.lint_images import is_picture
from edgekd.lint_variants import Variant, variants_of
from edgekd_converters.cost import count_macs
from edgekd_converters.divergence import are_probabilities, is_scores, run_columns
from edgekd_converters.errors import RunError
from edgekd_converters.graph import Graph

Array = npt.NDArray[Any]
Columns = Mapping[str, Array]
Scores = npt.NDArray[np.float64]

_MACS_OF_A_PROBE = 15e9
_MACS_OF_A_CLOSE_CALL = 80e9
_PROBE_ROWS = (32, 256)
_ENOUGH_ROWS = 16
_MUTE = 0.1  # differences between samples, as a share of those between classes; 0.75 to 1.5 on right data
_NEARLY_MUTE = 0.35
_MORE_DECISIVE = 1.2
_MUCH_MORE_DECISIVE = 1.4  # where one answer prevails: decisiveness says little of samples that are all of a class
_LOUD = 55.0  # the distance of the two best logits; right data keep it at 1 to 20
_UNSURE = 0.75  # entropy as a share of the greatest there is
_MANY_CLASSES = 8  # with fewer, a half-trained model is as unsure of what it knows
_ONE_ANSWER = 0.7


@dataclass(frozen=True)
class _Answers:
    """A classifier's ``(n, classes)`` log-probabilities."""

    logs: Scores

    @property
    def told(self) -> npt.NDArray[np.float64]:
        """``(n,)`` how much each answer tells: its divergence from the mean answer; the mean is the decisiveness."""
        mean = np.log(np.maximum(np.exp(self.logs).mean(0), 1e-30))
        return np.asarray((np.exp(self.logs) * (self.logs - mean)).sum(1))

    @property
    def decisiveness(self) -> float:
        return float(self.told.mean())

    @property
    def difference(self) -> float:
        """Deviation between samples over that between classes."""
        return float(self.logs.std(0).mean() / max(float(np.median(self.logs.std(1))), 1e-12))

    @property
    def gap(self) -> float:
        """Between the two best logits."""
        best = np.sort(self.logs, axis=1)[:, -2:]
        return float(np.median(best[:, 1] - best[:, 0]))

    @property
    def unsureness(self) -> float:
        """Mean entropy as a share of the greatest."""
        return float(-(np.exp(self.logs) * self.logs).sum(1).mean() / np.log(self.logs.shape[1]))

    @property
    def commonest(self) -> float:
        """The share of the samples that get the same answer."""
        return float(np.bincount(self.logs.argmax(1)).max() / len(self.logs))

    @property
    def prevails(self) -> bool:
        """Whether one answer is given to most of the samples."""
        return self.commonest > 0.6 and self.logs.shape[1] > 2

    @property
    def is_one_class(self) -> bool:
        return self.commonest > _ONE_ANSWER and self.logs.shape[1] > 2

    def right(self, labels: Array) -> npt.NDArray[np.float64]:
        return np.asarray(self.logs.argmax(1) == labels, np.float64)


def check_with_model(
    graph: Graph, columns: Columns, *, labels: Array | None, held: Columns | None, classes: int | None, said: set[str]
) -> list[Finding]:
    """``columns`` and ``labels``, of the samples, belong together; ``said`` are the codes of what was found before."""
    rows = _probe_rows(graph, len(next(iter(columns.values()))))
    if len(rows) < _ENOUGH_ROWS:
        return []
    some = {name: column[rows] for name, column in columns.items()}
    known = None if labels is None else labels[rows]
    try:
        outputs = _first_output(graph, some)
        if classes is None or not is_scores(outputs):
            return _check_mute_values(outputs)
        answers = _as_answers(outputs)
        found = _check_scale(graph, some, answers, known)
        if not found and "channel-order" not in said:
            found = _check_order(graph, columns, labels)
        if not found:
            theirs = _answers_of(graph, held) if held is not None else None
            found = _check_answers(answers, known, theirs, said, is_text=not _floats(graph, some))
        return found
    except RunError:
        return []  # the conversion says so itself


def _probe_rows(graph: Graph, count: int, budget: float = _MACS_OF_A_PROBE) -> npt.NDArray[np.int64]:
    least, most = _PROBE_ROWS
    rows = min(count, int(np.clip(budget // max(count_macs(graph), 1), least, most)))
    return np.unique(np.linspace(0, count - 1, rows).astype(np.int64))


def _first_output(graph: Graph, columns: Columns) -> Scores:
    kinds = {name: tensor.dtype.lower() for name, tensor in public_inputs(graph).items()}
    fed = {name: np.ascontiguousarray(column.astype(kinds[name], copy=False)) for name, column in columns.items()}
    return run_columns(graph, fed)[next(iter(graph.signature.outputs))]


def _floats(graph: Graph, columns: Columns) -> list[str]:
    inputs = public_inputs(graph)
    return [name for name in columns if inputs[name].dtype == "FLOAT32"]


def _as_answers(outputs: Scores) -> _Answers:
    if are_probabilities(outputs):
        return _Answers(np.log(np.maximum(outputs, 1e-30)))
    shifted = outputs - outputs.max(1, keepdims=True)
    return _Answers(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _answers_of(graph: Graph, columns: Columns) -> _Answers:
    rows = _probe_rows(graph, len(next(iter(columns.values()))))
    return _as_answers(_first_output(graph, {name: column[rows] for name, column in columns.items()}))


def _check_scale(graph: Graph, columns: Columns, answers: _Answers, labels: Array | None) -> list[Finding]:
    for name in _floats(graph, columns):
        tried = [
            (variant, _as_answers(_first_output(graph, {**columns, name: variant.values})))
            for variant in variants_of(columns[name])
        ]
        best = max(tried, key=lambda pair: _worth(pair[1], labels), default=None)
        judged = [pair for pair in tried if _is_better(pair[0], pair[1], answers, labels)]
        if best in judged or (labels is None and judged):
            chosen = best if best in judged else max(judged, key=lambda pair: pair[1].decisiveness)
            assert chosen is not None
            return [_scale_finding(name, columns[name], *chosen, answers, labels)]
    return []


def _worth(answers: _Answers, labels: Array | None) -> float:
    return answers.decisiveness if labels is None else float(answers.right(labels).mean())


def _is_better(variant: Variant, other: _Answers, answers: _Answers, labels: Array | None) -> bool:
    """Whether the model clearly prefers the variant to the samples as they are."""
    if labels is not None:
        sensible = not _is_guessing(other.right(labels), labels) and 2 * other.decisiveness > answers.decisiveness
        return sensible and _clearly_more(other.right(labels), answers.right(labels), 0.1)
    if variant.louder > 1.25:
        mute = answers.difference < _MUTE
        return (mute or answers.difference < _NEARLY_MUTE) and other.decisiveness > 4 * answers.decisiveness + 0.1
    if answers.gap > _LOUD and other.gap < _LOUD / 2 and variant.louder < 0.05:
        return other.decisiveness > 0.2 * math.log(other.logs.shape[1])
    more = ((_MUCH_MORE_DECISIVE if answers.prevails else _MORE_DECISIVE) - 1) * answers.decisiveness
    return _clearly_more(other.told, answers.told, max(more, 0.1))


def _clearly_more(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], margin: float) -> bool:
    """By ``margin`` in the mean, and by more than chance does, row against row."""
    difference = one - other
    noise = float(difference.std() / np.sqrt(len(difference)))
    return bool(difference.mean() > margin and difference.mean() > 2.5 * noise)


def _scale_finding(
    name: str, column: Array, variant: Variant, other: _Answers, answers: _Answers, labels: Array | None
) -> Finding:
    low, high = float(column.min()), float(column.max())
    figures = {"low": low, "high": high, "variant": variant.name, "rows": len(column)}
    if labels is not None:
        now, then = float(answers.right(labels).mean()), float(other.right(labels).mean())
        why = f"the model is right on {now:.0%} of {len(column)} samples as they are and on {then:.0%}"
        figures |= {"accuracy": now, "variant_accuracy": then}
    else:
        now, then = answers.decisiveness, other.decisiveness
        why = f"the model tells {len(column)} samples apart by {now:.2f} nats as they are and by {then:.2f}"
        figures |= {"decisiveness": now, "variant_decisiveness": then}
    text = (
        f"{name!r} runs from {low:.3g} to {high:.3g}: {why} {variant.name}; normalised twice, not at all or differently"
    )
    return warning("scale", text, **figures)


def _check_order(graph: Graph, columns: Columns, labels: Array | None) -> list[Finding]:
    """More rows than for the scale: for many pictures the order of colours matters little."""
    pictures = [name for name, column in columns.items() if is_picture(column) and column.shape[-1] == 3]
    if not pictures:
        return []
    rows = _probe_rows(graph, len(columns[pictures[0]]), _MACS_OF_A_CLOSE_CALL)
    columns = {name: column[rows] for name, column in columns.items()}
    labels = None if labels is None else labels[rows]
    answers = _as_answers(_first_output(graph, columns))
    if answers.is_one_class:
        return []  # another order makes the answers more diverse, and worse
    for name in pictures:
        turned = _as_answers(_first_output(graph, {**columns, name: columns[name][..., ::-1]}))
        more = _MUCH_MORE_DECISIVE - 1 if answers.prevails else 0.03
        told = _clearly_more(turned.told, answers.told, more * answers.decisiveness)
        if labels is not None:
            right, wrong = turned.right(labels), answers.right(labels)
            told = told or turned.decisiveness > answers.decisiveness
            told = told and (right.mean() > wrong.mean()) and not _is_guessing(right, labels)
        if not told:
            continue
        now, then = answers.decisiveness, turned.decisiveness
        text = (
            f"{name!r}: the model tells {len(columns[name])} samples apart by {now:.2f} nats as they are and by "
            f"{then:.2f} with red and blue swapped: BGR data for an RGB model, or the other way round"
        )
        return [warning("channel-order", text, decisiveness=now, swapped_decisiveness=then)]
    return []


def _check_answers(
    answers: _Answers, labels: Array | None, held: _Answers | None, said: set[str], *, is_text: bool
) -> list[Finding]:
    """The answers by themselves: all alike, no better than guessing, all of one class, unsure of everything."""
    rows, classes = answers.logs.shape
    if answers.difference < _MUTE:
        text = f"the model gives nearly the same answer to all {rows} samples: they differ by {answers.difference:.1%} "
        return [warning("same-answers", text + "of what its classes differ by", difference=answers.difference)]
    if labels is not None:
        return _check_guessing(answers.right(labels), labels)
    if answers.is_one_class:
        text = f"the model gives {answers.commonest:.0%} of {rows} samples the same class; are all classes among them?"
        return [warning("one-class", text, share=answers.commonest, rows=rows)]
    if held is not None and "shift" not in said:
        now, there = answers.unsureness, max(held.unsureness, 1e-3)
        if now > 2 * there and now - there > 0.15:
            text = f"the model is {now / there:.1f} times as unsure of the samples as of the held-out data (entropy "
            text += f"{now:.2f} against {there:.2f} of the greatest); they are of another kind"
            return [warning("unlike-eval", text, unsureness=now, held_unsureness=there)]
    if is_text and answers.unsureness > _UNSURE and classes >= _MANY_CLASSES:
        text = f"the model is unsure of nearly all of {rows} samples (entropy {answers.unsureness:.2f} of the greatest "
        return [
            warning("unknown-texts", text + "there is): another language or subject", unsureness=answers.unsureness)
        ]
    return []


def _check_guessing(right: npt.NDArray[np.float64], labels: Array) -> list[Finding]:
    if not _is_guessing(right, labels):
        return []
    text = (
        f"the model is right on {right.mean():.0%} of {len(labels)} labelled samples, no more than always saying the "
        "commonest class: labels numbered in another way, or samples prepared in another way"
    )
    return [warning("guessing", text, accuracy=float(right.mean()), commonest=_commonest(labels))]


def _is_guessing(right: npt.NDArray[np.float64], labels: Array) -> bool:
    """Whether always saying the commonest label would be as good; where that is nearly right it is no reproach."""
    commonest = _commonest(labels)
    noise = (commonest * (1 - commonest) / len(labels)) ** 0.5
    return commonest <= 0.8 and float(right.mean()) <= commonest + 2 * noise


def _commonest(labels: Array) -> float:
    return float(np.bincount(labels.astype(np.int64)).max() / len(labels))


def _check_mute_values(outputs: Scores) -> list[Finding]:
    """A model of many numbers that is no classifier; of a single number its usual size is not known."""
    flat = outputs.reshape(len(outputs), -1)
    if flat.shape[1] < 2 or not np.isfinite(flat).all():
        return []
    difference = float(flat.std(0).mean() / max(float(np.median(flat.std(1))), 1e-12))
    if difference >= _MUTE / 5:
        return []
    text = f"the model gives nearly the same output for all {len(flat)} samples: they differ by {difference:.1%} "
    return [warning("same-answers", text + "of its size", difference=difference)]
