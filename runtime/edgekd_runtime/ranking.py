"""From a model's scores to labels with probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, isfinite
from typing import Any, NamedTuple

from edgekd_runtime.backend import TensorSpec
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.errors import InputError


class Classification(NamedTuple):
    """``top`` lists (label, probability), best first; ``answers`` (language → text) belong to the best in scope."""

    top: tuple[tuple[str, float], ...]
    in_scope: bool
    answers: Mapping[str, str]

    @property
    def label(self) -> str:
        return self.top[0][0]

    @property
    def score(self) -> float:
        return self.top[0][1]


class Ranker:
    """Of one bundle. Plain Python: on some dozens of labels it is faster than numpy.

    ``values`` are the model's output, one for each label; ``(values − zero_point) · scale`` are its scores.
    """

    def __init__(self, bundle: Bundle, stored: TensorSpec) -> None:
        """``stored``: the output that the labels belong to."""
        self._name = bundle.name
        self._labels = bundle.labels
        self._is_logits = bundle.scores == "logits"
        self._threshold = bundle.threshold
        self._answers = bundle.answers
        # Stored bytes are at most 255 steps apart, so that all powers can be had before.
        of_bytes = stored.scale and stored.dtype.itemsize == 1
        self._powers = [exp(-n * stored.scale) for n in range(256)] if of_bytes else []

    def best(self, values: list[float], scale: float = 1.0, zero_point: int = 0) -> tuple[str, float]:
        """The first of :meth:`top` alone. Raises ``InputError``."""
        best, total = self._best_and_total(values, scale)
        label = self._labels[values.index(best)]
        return label, 1.0 / total if self._is_logits else (best - zero_point) * scale

    def top(
        self, values: list[float], scale: float = 1.0, zero_point: int = 0, top_k: int = 3
    ) -> tuple[tuple[str, float], ...]:
        """The ``top_k`` best labels, one at least, with probabilities, best first. Raises ``InputError``."""
        best, total = self._best_and_total(values, scale)
        labels = self._labels
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[: max(1, top_k)]
        if self._is_logits:
            return tuple([(labels[i], exp((values[i] - best) * scale) / total) for i in order])
        return tuple([(labels[i], (values[i] - zero_point) * scale) for i in order])

    def classified(self, top: tuple[tuple[str, float], ...]) -> Classification:
        """``top`` with what the bundle says of its first: whether it is in scope, and how it is answered."""
        label, score = top[0]
        in_scope = self._threshold is None or score >= self._threshold
        return Classification(top, in_scope, self._answers.get(label, {}) if in_scope else {})

    def _best_and_total(self, values: list[Any], scale: float) -> tuple[float, float]:
        """The largest value, and the sum by which probabilities are divided."""
        if not self._labels:
            raise InputError(f"model {self._name!r} has no labels, so it cannot classify; use infer")
        best, powers = max(values), self._powers
        if not self._is_logits:
            total = sum(values)
        elif powers and type(best) is int:  # as stored
            total = sum([powers[best - value] for value in values])
        else:
            total = sum([exp((value - best) * scale) for value in values])
        if not isfinite(total):
            raise InputError("the model's output holds NaN or infinity for this input")
        return best, total
