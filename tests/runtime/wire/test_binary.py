"""Tensors as bytes behind the JSON: https://github.com/kserve/open-inference-protocol, the binary extension."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.wire import infer
from edgekd_runtime.wire.answers import InferAnswer, InferWriter
from edgekd_runtime.wire.datatypes import DATATYPES, DTYPES, pack_bytes, unpack_bytes

shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
X = np.array([[1, 2, -1, 0.5], [0, 0, 0, 0]], np.float32)
Y = np.array([[4, 1, 3], [1, 0, -2]], np.float32)  # of X, by the weights in conftest


def entry(name: str, datatype: str, shape: list[int], size: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}, **more}


def of_array(name: str, array: npt.NDArray[Any]) -> tuple[dict[str, Any], bytes]:
    return entry(name, DATATYPES[array.dtype], list(array.shape), array.nbytes), array.tobytes()


def framed(request: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    head = json.dumps(request).encode()
    return head + data, str(len(head))


def ask(engine: Engine, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Output name → array, or list of bytes, or what JSON says."""
    body, length = framed(request, data)
    return outputs(InferWriter(engine)(infer.parse(body, engine, length)))


def outputs(answer: InferAnswer) -> dict[str, Any]:
    found, at = {}, 0
    for output in json.loads(answer.head)["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = output["data"]
            continue
        part = answer.binary[at : at + size]
        at += size
        if output["datatype"] == "BYTES":
            found[output["name"]] = unpack_bytes(part, int(np.prod(output["shape"])))
        else:
            found[output["name"]] = np.frombuffer(part, DTYPES[output["datatype"]]).reshape(output["shape"])
    assert at == len(answer.binary)
    return found


def refused(engine: Engine, body: bytes, length: str, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        InferWriter(engine)(infer.parse(body, engine, length))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bytes_in_and_out(dense: Engine, dtype: type) -> None:
    described, data = of_array("in", X.astype(dtype))
    got = ask(dense, {"inputs": [described], "parameters": {"binary_data_output": True}}, data)
    np.testing.assert_array_equal(got["out"], Y)
    assert got["out"].dtype == np.float32


def test_two_inputs_stand_one_behind_the_other(add: Engine) -> None:
    (a, a_data), (b, b_data) = of_array("a", X), of_array("b", 2 * X)
    got = ask(add, {"inputs": [a, b], "outputs": [{"name": "c", "parameters": {"binary_data": True}}]}, a_data + b_data)
    np.testing.assert_array_equal(got["c"], 3 * X)
    as_json = {"name": "a", "datatype": "FP32", "shape": [2, 4], "data": X.tolist()}
    got = ask(add, {"inputs": [as_json, b]}, b_data)  # and one of them in JSON
    np.testing.assert_array_equal(got["c"], (3 * X).ravel())


def test_half_precision_out(dense: Engine) -> None:
    described, data = of_array("in", X)
    wanted = [{"name": "out", "parameters": {"binary_data": True, "datatype": "FP16"}}]
    got = ask(dense, {"inputs": [described], "outputs": wanted}, data)["out"]
    np.testing.assert_array_equal(got, Y.astype(np.float16))
    assert got.dtype == np.float16


def test_what_half_precision_cannot_hold(add: Engine) -> None:
    (a, a_data), (b, b_data) = of_array("a", np.full((1, 4), 6e4, np.float32)), of_array("b", X[:1] * 0 + 6e4)
    wanted = [{"name": "c", "parameters": {"binary_data": True, "datatype": "FP16"}}]
    refused(add, *framed({"inputs": [a, b], "outputs": wanted}, a_data + b_data), "FP16 cannot hold")


def test_texts_and_labels(engine: Engine) -> None:
    texts = ["where is my order", "你好"]
    data = pack_bytes(text.encode() for text in texts)
    request = {"inputs": [entry("text", "BYTES", [2], len(data))], "parameters": {"binary_data_output": True}}
    got = ask(engine, request, data)
    expected = [engine.classify(text) for text in texts]
    assert [label.decode() for label in got["label"]] == [one.label for one in expected]
    np.testing.assert_allclose(got["score"], [one.score for one in expected], rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_classes(engine: Engine, binary: bool) -> None:
    text = "where is my order"
    data = pack_bytes([text.encode()])
    name = engine.outputs[0].name
    wanted = {"name": name, "parameters": {"classification": 2, "binary_data": binary}}
    got = ask(engine, {"inputs": [entry("text", "BYTES", [1], len(data))], "outputs": [wanted]}, data)[name]
    parts = [(one.decode() if binary else one).split(":") for one in got]
    best = engine.classify(text, 2).top
    assert [label for _, _, label in parts] == [label for label, _ in best]
    assert [engine.bundle.labels[int(index)] for _, index, _ in parts] == [label for label, _ in best]
    assert float(parts[0][0]) >= float(parts[1][0])


def test_classes_without_labels(dense: Engine) -> None:
    described, data = of_array("in", X)
    wanted = [{"name": "out", "parameters": {"classification": 99}}]
    assert ask(dense, {"inputs": [described], "outputs": wanted}, data)["out"] == [
        *("4.000000:0", "3.000000:2", "1.000000:1"),
        *("1.000000:0", "0.000000:1", "-2.000000:2"),
    ]


def test_a_body_without_json(dense: Engine, add: Engine, engine: Engine) -> None:
    got = outputs(InferWriter(dense)(infer.parse(X.tobytes(), dense, "0")))
    np.testing.assert_array_equal(got["out"], Y)
    text = "where is my order"
    got = outputs(InferWriter(engine)(infer.parse(text.encode(), engine, "0")))
    assert got["label"] == [engine.classify(text).label.encode()]
    refused(dense, X.tobytes()[:-1], "0", "a row has 16 bytes, the body 31")
    refused(dense, b"", "0", "a row has 16 bytes")
    refused(add, X.tobytes(), "0", "2 inputs")
    refused(engine, b"\xff", "0", "UTF-8")


@pytest.mark.parametrize("length", ["", "x", "-1", "1.0", "9" * 30, "٣", "1 "])
def test_lengths_that_are_none(dense: Engine, length: str) -> None:
    refused(dense, b"{}", length, "must be a whole number")


GOOD = entry("in", "FP32", [2, 4], 32)


@pytest.mark.parametrize(
    ("inputs", "size", "fragment"),
    [
        ([GOOD], 31, "31 bytes follow"),
        ([GOOD], 33, "33 bytes follow"),
        ([GOOD], 0, "0 bytes follow"),
        ([entry("in", "FP32", [2, 4], 31)], 31, "has 32 bytes, not 31"),
        ([entry("in", "FP32", [2**31 - 1] * 8, 32)], 32, "is too large"),
        ([entry("in", "FP32", [2, 4], -32)], 32, "whole number"),
        ([entry("in", "FP32", [2, 4], 32.0)], 32, "whole number"),
        ([entry("in", "FP32", [2, 4], True)], 32, "whole number"),
        ([entry("in", "FP32", [2, 4], "32")], 32, "whole number"),
        ([entry("in", "FP32", [2, 4], 10**15)], 32, "bytes, not 1000"),
        ([entry("in", "FP32", [2, 4], 32, data=[0] * 8)], 32, "both"),
        ([{**GOOD, "parameters": []}], 32, "'parameters' must be an object"),
        ([entry("in", "INT32", [2, 4], 32)], 32, "must be int8, not int32"),
        ([entry("in", "FP64", [1, 4], 32)], 32, "must be int8, not float64"),
        ([entry("in", "BYTES", [4], 32)], 32, "must hold numbers"),
        ([GOOD, GOOD], 64, "given twice"),
        ([entry("in", "FP32", [0, 4], 0)], 0, "batch of 0"),
        ([entry("in", "FP32", [65, 4], 1040)], 1040, "batch of 65"),
    ],
)
def test_binary_that_does_not_fit(dense: Engine, inputs: list[dict[str, Any]], size: int, fragment: str) -> None:
    refused(dense, *framed({"inputs": inputs}, bytes(size)), fragment)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        struct.pack("<I", 2**32 - 1),
        struct.pack("<I", 5) + b"abc",
        pack_bytes([b"a"]),
        pack_bytes([b"a"] * 3),
        pack_bytes([b"a"] * 2) + b"x",
    ],
)
def test_byte_strings_that_do_not_fit(engine: Engine, data: bytes) -> None:
    request = {"inputs": [entry("text", "BYTES", [2], len(data))]}
    refused(engine, *framed(request, data), "input 'text'")


def test_a_bool_is_zero_or_one(dense: Engine) -> None:
    refused(dense, *framed({"inputs": [entry("in", "BOOL", [1, 2], 2)]}, b"\x01\x02"), "a byte of 0 or 1")


def test_nan_in_binary_is_refused(dense: Engine) -> None:
    described, data = of_array("in", np.full((1, 4), np.nan, np.float32))
    refused(dense, *framed({"inputs": [described]}, data), "NaN")


def test_a_remembered_head_gives_each_body_its_own_answer(dense: Engine) -> None:
    for factor in (1, 2, -1):
        described, data = of_array("in", X * factor)
        got = ask(dense, {"inputs": [described], "parameters": {"binary_data_output": True}}, data)
        expected = dense.infer({"in": X * factor})["out"]
        np.testing.assert_array_equal(got["out"], expected)


@given(values=st.lists(st.binary(max_size=20), max_size=5))
def test_byte_strings_come_back(values: list[bytes]) -> None:
    assert unpack_bytes(pack_bytes(values), len(values)) == values


@given(data=st.binary(max_size=40), count=st.integers(0, 5))
def test_any_byte_string(data: bytes, count: int) -> None:
    try:
        assert pack_bytes(unpack_bytes(data, count)) == data
    except InputError as error:
        assert "\n" not in str(error)


SIZES = st.sampled_from([0, 1, 4, 16, 32, 2**31 - 1, 2**63, -1]) | st.none() | st.text(max_size=2)
ENTRIES = st.builds(
    entry,
    st.sampled_from(["in", "a", "b", "text", "ids", ""]),
    st.sampled_from(["FP32", "FP16", "INT8", "INT32", "BYTES", "BOOL", "FP64", "X"]),
    st.lists(st.sampled_from([0, 1, 2, 4, 2**31 - 1, 2**31]), max_size=9),
    SIZES,
)
OUTPUTS = st.fixed_dictionaries(
    {"name": st.sampled_from(["out", "c", "label", "score", "x"])},
    optional={
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data", "classification", "datatype"]),
            st.sampled_from([True, False, 0, 1, 3, 2**31, -1, "FP16", "FP32", None]),
        )
    },
)


@given(
    inputs=st.lists(ENTRIES, min_size=1, max_size=2),
    wanted=st.none() | st.lists(OUTPUTS, max_size=2),
    data=st.binary(max_size=64) | st.just(X.tobytes()) | st.just(pack_bytes([b"hello"])),
    cut=st.sampled_from([None, "0", "1", "99999"]),
)
@settings(parent=shared, max_examples=400)
def test_any_request(
    inputs: list[Any], wanted: Any, data: bytes, cut: str | None, dense: Engine, add: Engine, engine: Engine
) -> None:
    body, length = framed({"inputs": inputs, "outputs": wanted}, data)
    for one in (dense, add, engine):
        try:
            outputs(InferWriter(one)(infer.parse(body, one, cut or length)))
        except InputError as error:
            assert "\n" not in str(error)
