"""With orjson and without: the same values, the same refusals."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd_runtime import jsontext

jsontext.loads(b"{}")  # it is looked for
needs_orjson = pytest.mark.skipif(importlib.util.find_spec("orjson") is None, reason="orjson is not installed")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def is_same(one: object, other: object) -> bool:
    """orjson makes floats of integers of more than 64 bits."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, int | float) and isinstance(other, int | float) and abs(one) >= 2**63:
        return float(one) == float(other)
    return type(one) is type(other) and one == other


def outcome(text: bytes) -> object:
    try:
        return jsontext.loads(text)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


@needs_orjson
@given(values)
def test_both_write_and_read_the_same(value: object) -> None:
    written = jsontext.dumps(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_orjson", None)
        assert is_same(jsontext.loads(written), jsontext.loads(jsontext.dumps(value)))
        slowly = jsontext.loads(written)
    assert is_same(jsontext.loads(written), slowly)


@needs_orjson
@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b'{"a": NaN}', b"[1e999]", b"[-Infinity]", b'"\xff"', b'"\\ud800"', b"[01]", b"[1,]", b"1" * 5000),
        *(b"[" * 3000 + b"]" * 3000, b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}", b" \n[1.5, -0.0, true] ", b'"a\nb"'),
    ],
)
def test_both_refuse_and_take_the_same(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        try:
            return repr(outcome(text))
        except RecursionError:
            return "too deep"

    with_orjson = told()
    monkeypatch.setattr(jsontext, "_orjson", None)
    assert told() == with_orjson


@pytest.mark.parametrize("is_there", [False, pytest.param(True, marks=needs_orjson)])
def test_what_one_of_them_cannot_write(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_there:
        monkeypatch.setattr(jsontext, "_orjson", None)
    assert jsontext.dumps({"a": "\ud800"}) == b'{"a":"?"}'
    assert json.loads(jsontext.dumps([2**80, math.pi, "é"])) == [2**80, math.pi, "é"]
