"""``:classify``: one text, picture or sound, or several, and the labels with their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from edgekd_runtime.engine import MAX_BATCH, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.jsontext import encode
from edgekd_runtime.wire.raw import TEXT, file_of

MAX_TOP_K = 1000


class ClassifyRequest(NamedTuple):
    """Raw inputs, texts or files. ``is_list``: the client sent a list and gets one back. ``top_k``: labels for each."""

    raw: Sequence[str | bytes]
    is_list: bool = False
    top_k: int = 3


def parse(request: dict[str, Any], takes: str | None = TEXT) -> ClassifyRequest:
    """``{"text": "…" or ["…"], "top_k": 3}``; files, under ``image`` or ``audio``, are in base64.

    ``takes``: text, image, audio, or None of a model of tensors. Raises ``InputError``.
    """
    name = takes or TEXT
    if name == TEXT and len(request) == 1 and type(text := request.get(TEXT)) is str:  # mostly
        return ClassifyRequest([text])
    if unknown := request.keys() - {name, "top_k"}:
        raise InputError(f"unknown field {sorted(unknown)[0]!r}; the fields are {name!r} and 'top_k'")
    given, top_k = request.get(name), request.get("top_k", 3)
    if type(top_k) is not int or not 1 <= top_k <= MAX_TOP_K:
        raise InputError(f"'top_k' must be a whole number from 1 to {MAX_TOP_K}")
    is_list = isinstance(given, list)
    several: list[Any] = given if isinstance(given, list) else [given]
    if not 1 <= len(several) <= MAX_BATCH or not all(isinstance(one, str) for one in several):
        raise InputError(f"{name!r} must be a text or a list of 1 to {MAX_BATCH} texts")
    return ClassifyRequest(several if name == TEXT else [file_of(name, one) for one in several], is_list, top_k)


class ClassifyWriter:
    """Writes the JSON answers of ``:classify``, as the server and ``infer --json`` both give them.

    What does not depend on the request is encoded once: for a small model, encoding it anew would cost more than
    running the model.
    """

    def __init__(self, engine: Engine) -> None:
        bundle = engine.bundle
        self._engine = engine
        self._head = encode({"model_name": bundle.name, "model_version": bundle.version})[1:-1]
        self._labels = {label: encode(label) for label in bundle.labels}
        self._answers = {label: encode(dict(answers)) for label, answers in bundle.answers.items()}

    def __call__(self, request: ClassifyRequest) -> str:
        """One result, or ``results`` when a list was asked. Raises ``InputError``."""
        results = [self.result(one, request.top_k) for one in request.raw]
        if request.is_list:
            return f'{{{self._head},"results":[{",".join(f"{{{result}}}" for result in results)}]}}'
        return f"{{{self._head},{results[0]}}}"

    def result(self, raw: str | bytes, top_k: int) -> str:
        """The members of one raw input's JSON object, without the braces. Raises ``InputError``."""
        top, in_scope, answers = self._engine.classify(raw, top_k)
        labels = self._labels
        listed = [f'"label":{labels[label]},"score":{score!r}' for label, score in top]
        known = "true" if in_scope else "false"
        head = f'{listed[0]},"in_scope":{known},"labels":[{{{"},{".join(listed)}}}]'
        if not self._answers:
            return head
        return f'{head},"answers":{self._answers[top[0][0]] if answers else "{}"}'
