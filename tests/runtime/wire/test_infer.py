"""The protocol: any bytes are either a request that can be answered or one line of error."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.wire import infer, metadata, tensors
from edgekd_runtime.wire.answers import InferWriter
from edgekd_runtime.wire.datatypes import DTYPES

INTEGERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
FLOATS = ["FP16", "FP32", "FP64"]

shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def entry(name: str, datatype: object, shape: object, data: object) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def parse_one(engine: Engine, datatype: str, data: list[Any]) -> np.ndarray:
    return infer.parse(body(entry("t", datatype, [len(data)], data)), engine).tensors["t"]


def answer(raw: bytes, engine: Engine) -> dict[str, Any]:
    head, binary, is_binary = InferWriter(engine)(infer.parse(raw, engine))
    assert (binary, is_binary) == (b"", False)
    got: dict[str, Any] = json.loads(head, parse_constant=pytest.fail)
    return got


def refused(raw: bytes, engine: Engine, fragment: str = "") -> str:
    with pytest.raises(InputError) as caught:
        answer(raw, engine)
    message = str(caught.value)
    assert "\n" not in message
    assert 0 < len(message) < 1000
    assert fragment in message
    return message


# --- datatypes ---


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_to_their_limits(dense: Engine, datatype: str) -> None:
    dtype = np.dtype(datatype.lower())
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    got = parse_one(dense, datatype, [low, high, 1])
    assert got.dtype == dtype
    assert got.tolist() == [low, high, 1]
    for beyond in (low - 1, high + 1):
        refused(
            body(entry("t", datatype, [2], [0, beyond])), dense, f"datatype {datatype}"
        )  # orjson makes more than 64 bits a float


@given(st.lists(st.integers(-140, 270) | st.floats(width=32, allow_nan=False) | st.booleans(), max_size=3))
@pytest.mark.parametrize("datatype", [*INTEGERS, *FLOATS, "BOOL"])
def test_many_values_are_read_as_few_are(datatype: str, some: list[Any]) -> None:
    def read(data: list[Any]) -> list[Any] | str:
        try:
            return tensors.numbers("x", data, DTYPES[datatype]).tolist()
        except InputError as error:
            return str(error)

    for filler in (1, 1.5, True):
        for few in ([filler], [*some, filler]):
            once, many = read(few), read(few * 128)
            assert many == (once if isinstance(once, str) else once * 128)


@pytest.mark.parametrize("datatype", INTEGERS)
def test_many_integers_to_their_limits(dense: Engine, datatype: str) -> None:
    low, high = int(np.iinfo(datatype.lower()).min), int(np.iinfo(datatype.lower()).max)
    assert parse_one(dense, datatype, [low, high] * 100).tolist() == [low, high] * 100
    for beyond in (low - 1, high + 1):
        refused(body(entry("t", datatype, [200], [0] * 199 + [beyond])), dense, f"datatype {datatype}")


@pytest.mark.parametrize("datatype", FLOATS)
def test_floats(dense: Engine, datatype: str) -> None:
    got = parse_one(dense, datatype, [0.5, -3, 1e4])
    # FP16 is the short form of FP32 for models that are not of FP16.
    assert got.dtype == {"FP16": np.float32, "FP32": np.float32, "FP64": np.float64}[datatype]
    np.testing.assert_array_equal(got, np.array([0.5, -3, 1e4], got.dtype))


def test_bools(dense: Engine) -> None:
    assert parse_one(dense, "BOOL", [True, False]).dtype == np.bool_


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        *[(datatype, value) for datatype in INTEGERS for value in (True, 1.0, "1", None, [1], {})],
        *[(datatype, value) for datatype in FLOATS for value in (True, "1", None, {})],
        *[("BOOL", value) for value in (0, 1, 1.0, "true", None)],
    ],
)
def test_a_value_of_another_type(dense: Engine, datatype: str, value: object) -> None:
    refused(body(entry("t", datatype, [2], [value, value])), dense, f"is not a value of datatype {datatype}")


@pytest.mark.parametrize("datatype", ["INT4", "int8", "BF16", "", None, 8, ["INT8"], {"a": 1}])
def test_no_such_datatype(dense: Engine, datatype: object) -> None:
    refused(body(entry("in", datatype, [1, 4], [1, 2, 3, 4])), dense, "is not one of BOOL, UINT8")


def test_bytes_are_no_numbers(dense: Engine) -> None:
    refused(body(entry("in", "BYTES", [1, 4], ["a"] * 4)), dense, "must hold numbers, not BYTES")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_that_are_not_json(dense: Engine, word: str) -> None:
    refused(b'{"inputs": [{"name": "in", "data": [%s]}]}' % word.encode(), dense, f"{word} is not JSON")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e39"])
def test_numbers_that_become_infinite(dense: Engine, add: Engine, number: str) -> None:
    for engine, names in ((dense, ["in"]), (add, ["a", "b"])):
        inputs = [entry(name, "FP32", [1, 4], [0, 0, 0, "@"]) for name in names]
        refused(body(*inputs).replace(b'"@"', number.encode()), engine, "infinity")


# --- shape and data ---


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_data_flat_or_nested(dense: Engine, data: list[Any]) -> None:
    raw = body(entry("t", "INT8", [2, 3], data))
    assert infer.parse(raw, dense).tensors["t"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_data_nested_three_deep(dense: Engine) -> None:
    data = np.arange(24).reshape(2, 3, 4).tolist()
    raw = body(entry("t", "INT8", [2, 3, 4], data))
    assert infer.parse(raw, dense).tensors["t"].tolist() == data


@pytest.mark.parametrize(
    ("shape", "data", "fragment"),
    [
        ([1, 4], [1, 2, 3], "needs 4 values, 'data' has 3"),
        ([1, 4], [1, 2, 3, 4, 5], "needs 4 values, 'data' has 5"),
        ([2, 2], [[1, 2], [3]], "needs 4 values, 'data' has 3"),
        ([2, 2], [[1, 2], 3], "unevenly"),
        ([1, 4], [[[1, 2, 3, 4]]], "needs 4 values"),
        ([4], [[1, 2, 3, 4]], "needs 4 values"),
        ([2], [[1], [2]], "not a value"),
        ([1, 4], "abcd", "'data' must be a list"),
        ([1, 4], None, "'data' must be a list"),
        ([1, 4], {"0": 1}, "'data' must be a list"),
        ([], [1], "'shape'"),
        (None, [1], "'shape'"),
        ("14", [1], "'shape'"),
        ([1, -4], [1], "'shape'"),
        ([1, 4.0], [1], "'shape'"),
        ([True, 4], [1, 2, 3, 4], "'shape'"),
        ([1, None], [1], "'shape'"),
        ([0], [], ""),
        ([0, 10**30], [], ""),
        ([10**18, 10**18], [], ""),
        ([10**4000, 10**4000], [], ""),
        ([1] * 100, [1], ""),
        ([1] * 50_000, [1], ""),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_shape_and_data_that_do_not_fit(dense: Engine, shape: object, data: object, fragment: str) -> None:
    refused(body(entry("in", "INT8", shape, data)), dense, fragment)


# --- the rest of the request ---


@pytest.mark.parametrize(
    ("request_", "fragment"),
    [
        ({}, "'inputs'"),
        ({"inputs": []}, "'inputs'"),
        ({"inputs": {}}, "'inputs'"),
        ({"inputs": ["in"]}, "'inputs'"),
        ({"inputs": [{}]}, "'name'"),
        ({"inputs": [{"name": 1}]}, "'name'"),
        ({"inputs": [entry("in", "INT8", [1, 4], [0] * 4)], "id": 7}, "'id'"),
        ({"inputs": [entry("in", "INT8", [1, 4], [0] * 4)], "outputs": {}}, "'outputs'"),
        ({"inputs": [entry("in", "INT8", [1, 4], [0] * 4)], "outputs": ["out"]}, "'outputs'"),
        ({"inputs": [entry("in", "INT8", [1, 4], [0] * 4)], "outputs": [{"name": None}]}, "'outputs'"),
        ({"inputs": [entry("in", "INT8", [1, 4], [0] * 4)], "outputs": [{"name": "label"}]}, "no output 'label'"),
        ({"inputs": [entry("in", "INT8", [1, 4], [0] * 4)] * 2}, "given twice"),
        ({"inputs": [entry("text", "BYTES", [1], ["hello"])]}, "BYTES"),
    ],
)
def test_requests_that_do_not_fit(dense: Engine, request_: object, fragment: str) -> None:
    refused(json.dumps(request_).encode(), dense, fragment)


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b'{"inputs": \n [1,]}', "line 2"),
        (b"null", "JSON object"),
        (b"[]", "JSON object"),
        (b"7", "JSON object"),
        (b'{"id": "\xff"}', "UTF-8"),
        (b'{"id": "\xed\xa0\x80"}', "UTF-8"),  # half a surrogate pair, which Python's json would let through
        ('{"inputs": []}'.encode("utf-16"), "UTF-8"),
        ('{"inputs": []}'.encode("utf-32-le"), ""),
        (b"[" * 100_000, "JSON"),
        (b'{"a":' * 100_000, "JSON"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", "JSON"),
        (b'{"inputs": [{"name": "in", "datatype": ' + b"[" * 900 + b"]" * 900 + b"}]}", ""),
        (
            b'{"inputs": [{"name": "in", "datatype": "INT8", "shape": [1, 1], "data": ['
            + b"[" * 900
            + b"]" * 900
            + b"]}]}",
            "",
        ),
    ],
    ids=lambda raw: repr(raw)[:30],
)
def test_bytes_that_are_no_request(dense: Engine, raw: bytes, fragment: str) -> None:
    refused(raw, dense, fragment)


def test_the_id_comes_back(dense: Engine) -> None:
    good = entry("in", "INT8", [1, 4], [0] * 4)
    for identity in ("42", "", "😀"):
        assert answer(body(good, id=identity), dense)["id"] == identity
    assert "id" not in answer(body(good), dense)


def test_a_byte_order_mark_does_no_harm(dense: Engine) -> None:
    good = entry("in", "INT8", [1, 4], [0] * 4)
    assert answer(b"\xef\xbb\xbf" + body(good), dense) == answer(body(good), dense)


# --- answers ---


def test_answer(dense: Engine) -> None:
    raw = body(entry("in", "FP32", [2, 4], [[1, 2, -1, 0.5], [0, 0, 0, 0]]), id="a", outputs=[{"name": "out"}])
    assert answer(raw, dense) == {
        "model_name": "dense",
        "model_version": "1",
        "id": "a",
        "outputs": [{"name": "out", "datatype": "FP32", "shape": [2, 3], "data": [4, 1, 3, 1, 0, -2]}],
    }


def test_metadata_offers_float_where_the_engine_quantises(dense: Engine) -> None:
    described = metadata.model(dense)
    assert described["inputs"] == [{"name": "in", "datatype": "FP32", "shape": [-1, 4]}]
    assert described["outputs"] == [{"name": "out", "datatype": "FP32", "shape": [-1, 3]}]
    assert described["platform"] == "edgekd_litert"


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_texts_in_either_shape(engine: Engine, shape: list[int]) -> None:
    texts = ["where is my order", "你好"]
    got = answer(body(entry("text", "BYTES", shape, texts)), engine)
    labels = next(output for output in got["outputs"] if output["name"] == "label")
    assert labels == {
        "name": "label",
        "datatype": "BYTES",
        "shape": [2],
        "data": [engine.classify(one).label for one in texts],
    }


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "fragment"),
    [
        ("FP32", [1], ["a"], "must have datatype BYTES"),
        ("BYTES", [1, 2], ["a", "b"], "must have shape [n]"),
        ("BYTES", [1, 1, 1], ["a"], "must have shape [n]"),
        ("BYTES", [1], [1], "must hold texts"),
        ("BYTES", [1], [None], "must hold texts"),
        ("BYTES", [2], ["a"], "needs 2 values"),
        ("BYTES", [0], [], "batch of 0"),
        ("BYTES", [65], ["a"] * 65, "batch of 65"),
        ("BYTES", [2], ["a", ""], "empty"),
        ("BYTES", [1], ["\ud800"], "empty"),
    ],
)
def test_texts_that_do_not_fit(engine: Engine, datatype: str, shape: list[int], data: list[Any], fragment: str) -> None:
    refused(body(entry("text", datatype, shape, data)), engine, fragment)


# --- anything at all ---

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
SIZES = st.integers(0, 5) | st.integers() | ANY_JSON
NUMBERS = st.integers(-200, 200) | st.floats() | st.booleans() | ANY_JSON
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["in", "ids", "text", "a", "b"]) | ANY_JSON,
        "datatype": st.sampled_from(["INT8", "INT32", "FP32", "BYTES", "BOOL", "UINT64"]) | ANY_JSON,
        "shape": st.sampled_from([[1, 4], [2, 4], [1]]) | st.lists(SIZES, max_size=3) | ANY_JSON,
        "data": st.lists(NUMBERS, min_size=4, max_size=4) | st.lists(st.text(st.characters()), max_size=2) | ANY_JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(ENTRY, min_size=1, max_size=2) | ANY_JSON},
    optional={
        "id": st.text(st.characters()) | ANY_JSON,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["out", "c", "label"]) | ANY_JSON}))
        | ANY_JSON,
    },
)


def as_sent(got: dict[str, Any]) -> bytes:
    # An id with half a surrogate pair cannot go back as it came; NaN and infinity are not JSON.
    return json.dumps(got, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def answers_or_refuses(raw: bytes, engine: Engine) -> None:
    try:
        got = answer(raw, engine)
    except InputError as error:
        assert "\n" not in str(error)
        return
    as_sent(got)


@given(request_=REQUEST)
@settings(parent=shared, max_examples=500)
@example(request_={"inputs": [entry("in", "FP32", [1, 4], [1, 2, 3, 4])], "id": "\udfff"})
def test_any_request(request_: object, dense: Engine, add: Engine, engine: Engine) -> None:
    raw = json.dumps(request_).encode()
    for one in (dense, add, engine):
        answers_or_refuses(raw, one)


@given(values=st.lists(st.floats(width=32), min_size=8, max_size=8))
@settings(parent=shared)
def test_any_floats(values: list[float], dense: Engine, add: Engine) -> None:
    answers_or_refuses(body(entry("in", "FP32", [2, 4], values)), dense)
    answers_or_refuses(body(entry("a", "FP32", [2, 4], values), entry("b", "FP32", [2, 4], values)), add)


@given(raw=st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
@settings(parent=shared, max_examples=300)
def test_any_body(raw: bytes, engine: Engine) -> None:
    answers_or_refuses(raw, engine)
