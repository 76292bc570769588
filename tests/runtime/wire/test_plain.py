"""Plain requests, whose heads are worked out once, get the very answers that :mod:`infer` gives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd_runtime import jsontext
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import Reply
from edgekd_runtime.wire import infer
from edgekd_runtime.wire.answers import InferWriter, reply
from edgekd_runtime.wire.datatypes import BINARY_HEADER, pack_bytes
from edgekd_runtime.wire.plain import PlainRequests

BINARY: dict[str, Any] = {"parameters": {"binary_data_output": True}}
X = np.array([[1, 2, -1, 0.5]], np.float32)
TEXT = pack_bytes([b"where is my order"])


def entry(name: str, datatype: str, shape: list[int], data: bytes) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}


def framed(request: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    head = json.dumps(request).encode()
    return head + data, str(len(head))


def of_x(data: bytes = X.tobytes(), **more: Any) -> tuple[bytes, str]:
    return framed({"inputs": [entry("in", "FP32", [1, 4], data)], **BINARY, **more}, data)


def of_text(data: bytes, shape: list[int]) -> tuple[bytes, str]:
    return framed({"inputs": [entry("text", "BYTES", shape, data)], **BINARY}, data)


def told(ask: Any) -> Reply | str | None:
    """The answer, or what the refusal says."""
    try:
        found: Reply | None = ask()
    except InputError as error:
        return str(error)
    return found


def both(engine: Engine, body: bytes, length: str) -> tuple[Any, Any]:
    """What plain requests get, the second time, and what all others get."""
    write = InferWriter(engine)
    requests = PlainRequests(engine, write)
    first, second = (told(lambda: requests.answer(memoryview(body), length)) for _ in range(2))
    assert first == second
    return second, told(lambda: reply(write(infer.parse(body, engine, length))))


@pytest.mark.parametrize("values", [X, 2 * X, -X])
def test_a_tensor(dense: Engine, values: Any) -> None:
    answer, other = both(dense, *of_x(values.tobytes()))
    assert answer == other
    binary = answer.body[int(dict(answer.headers)[BINARY_HEADER]) :]
    np.testing.assert_array_equal(np.frombuffer(binary, "<f4"), dense.infer({"in": values})["out"][0])


@pytest.mark.parametrize("text", ["where is my order", "你好", "I want my money back!"])
@pytest.mark.parametrize("shape", [[1], [1, 1]])
def test_a_text_and_its_label(engine: Engine, text: str, shape: list[int]) -> None:
    answer, other = both(engine, *of_text(pack_bytes([text.encode()]), shape))
    assert answer == other
    assert engine.classify(text).label.encode() in answer.body


@pytest.mark.parametrize(
    "request_",
    [
        of_x(id="7"),
        of_x(outputs=[{"name": "out"}]),
        of_x(parameters={}),
        framed({"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}], **BINARY}, b""),
        framed({"inputs": [entry("in", "FP16", [1, 4], bytes(8))], **BINARY}, bytes(8)),
        framed({"inputs": [entry("in", "FP32", [2, 4], bytes(32))], **BINARY}, bytes(32)),
        of_x(more="x" * 3000),
    ],
    ids=["id", "outputs", "json", "data", "half", "rows", "long"],
)
def test_what_is_not_plain(dense: Engine, request_: tuple[bytes, str]) -> None:
    answer, other = both(dense, *request_)
    assert answer is None
    assert other.status == 200


def test_values_are_looked_at_every_time(dense: Engine, engine: Engine) -> None:
    for one, request_, words in [
        (dense, of_x(np.full((1, 4), np.nan, np.float32).tobytes()), "holds NaN or infinity"),
        (engine, of_text(pack_bytes([b"\xff"]), [1]), "not UTF-8"),
        (engine, of_text(pack_bytes([b""]), [1]), "the text is empty"),
        (engine, of_text(b"\x09" + TEXT[1:], [1]), "bytes are not 1 values"),
    ]:
        answer, other = both(one, *request_)
        assert words in answer
        assert words in other


def test_a_body_that_is_shorter_than_its_head_says(dense: Engine) -> None:
    requests = PlainRequests(dense, InferWriter(dense))
    body, length = of_x()
    assert requests.answer(body, length) is not None
    assert requests.answer(body[:-1], length) is None
    assert requests.answer(body[:5], length) is None
    with pytest.raises(InputError, match="must be a whole number"):
        requests.answer(body, "-1")


def test_heads_that_never_come_again_take_no_memory(dense: Engine) -> None:
    requests = PlainRequests(dense, InferWriter(dense))
    for k in range(600):
        assert requests.answer(*of_x(more=k)) is not None
        assert requests.answer(*of_x(more=str(k) * 3000)) is None
    assert len(requests._known) <= 256
    assert max(map(len, requests._known)) <= infer.MAX_REMEMBERED_BYTES


def test_a_binary_client_does_not_bring_orjson(dense: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsontext, "_is_looked_for", False)
    assert PlainRequests(dense, InferWriter(dense)).answer(*of_x()) is not None
    assert not jsontext._is_looked_for  # nor its memory


NAMES = st.sampled_from(["in", "a", "text", "ids"])
DATATYPES = st.sampled_from(["FP32", "INT8", "INT32", "BYTES", "BOOL", "FP16"])
DATA = st.sampled_from([X.tobytes(), X.tobytes() * 2, TEXT, TEXT * 2, bytes(4 * 256), bytes([7] * 1024), b"\x01", b""])
SHAPES = st.sampled_from([[1], [1, 1], [1, 4], [2, 4], [4], [1, 256], [1, 16], [0], [2]])


@given(name=NAMES, datatype=DATATYPES, shape=SHAPES, data=DATA, binary=st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
def test_any_request(
    name: str, datatype: str, shape: list[int], data: bytes, binary: bool, dense: Engine, add: Engine, engine: Engine
) -> None:
    request_ = {"inputs": [entry(name, datatype, shape, data)], "parameters": {"binary_data_output": binary}}
    for one in (dense, add, engine):
        answer, other = both(one, *framed(request_, data))
        assert answer in (None, other)
