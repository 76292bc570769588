"""``:classify`` in its own form: what a body asks for."""

from __future__ import annotations

import json

import pytest

from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError, MediaTypeError
from edgekd_runtime.wire import classify, raw
from edgekd_runtime.wire.classify import ClassifyRequest, ClassifyWriter


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", "TEXT/PLAIN"])
@pytest.mark.parametrize("takes", ["text", None])
def test_plain_text(content_type: str, takes: str | None) -> None:
    assert raw.of_body("你好".encode(), content_type, takes) == "你好"


@pytest.mark.parametrize("content_type", ["", "application/json", "application/octet-stream", "text", "video/x"])
def test_all_else_is_json(content_type: str) -> None:
    assert raw.of_body(b"{}", content_type, "image") is None


def test_files() -> None:
    assert raw.of_body(b"abc", "image/png", "image") == b"abc"
    for content_type, takes in (("audio/wav", "image"), ("image/png", "text"), ("image/png", None)):
        with pytest.raises(MediaTypeError, match=f"takes {takes or 'tensors'}, not '{content_type}'"):
            raw.of_body(b"abc", content_type, takes)
    with pytest.raises(MediaTypeError, match="takes image, not 'text/plain'"):
        raw.of_body(b"abc", "text/plain", "image")


def test_json() -> None:
    assert classify.parse({"text": "a"}) == ClassifyRequest(["a"], False, 3)
    assert classify.parse({"text": ["a", "b"], "top_k": 1000}) == ClassifyRequest(["a", "b"], True, 1000)
    assert classify.parse({"audio": "YWJj"}, "audio") == ClassifyRequest([b"abc"], False, 3)


@pytest.mark.parametrize("top_k", [0, -1, 1001, True, 1.0, "3", None, []])
def test_top_k(top_k: object) -> None:
    with pytest.raises(InputError, match="'top_k'"):
        classify.parse({"text": "a", "top_k": top_k})


@pytest.mark.parametrize("text", [None, 1, [], ["a", None], {"en": "a"}, ["a"] * 65])
def test_text(text: object) -> None:
    with pytest.raises(InputError, match="'text' must be"):
        classify.parse({"text": text})


def test_a_model_without_text(dense: Engine) -> None:
    with pytest.raises(InputError, match="does not take raw text"):
        ClassifyWriter(dense)(ClassifyRequest(["a"]))


def test_a_list_gets_a_list(engine: Engine) -> None:
    write = ClassifyWriter(engine)
    one = json.loads(write(ClassifyRequest(["where is my order"], top_k=2)))
    listed = json.loads(write(ClassifyRequest(["where is my order"], True, 2)))
    head = {"model_name": engine.bundle.name, "model_version": engine.bundle.version}
    assert listed == {**head, "results": [{key: one[key] for key in one.keys() - head.keys()}]}
    assert [entry["label"] for entry in one["labels"]] == [
        label for label, _ in engine.classify("where is my order", 2).top
    ]
