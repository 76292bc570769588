"""TensorFlow Serving's REST: https://www.tensorflow.org/tfx/serving/api_rest"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.wire import tfserving

shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS, OUT = [[1, 2, -1, 0.5], [0, 0, 0, 0]], [[4, 1, 3], [1, 0, -2]]  # by the weights in conftest


def predict(engine: Engine, request: object, content_type: str = "application/json") -> dict[str, Any]:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    got = tfserving.predict(tfserving.parse_predict(body, content_type, engine), engine)
    return json.loads(json.dumps(got, allow_nan=False))  # type: ignore[no-any-return]


def b64(text: str | bytes) -> dict[str, str]:
    raw = text.encode() if isinstance(text, str) else text
    return {"b64": base64.b64encode(raw).decode()}


def test_rows_of_one_input(dense: Engine) -> None:
    assert predict(dense, {"instances": ROWS}) == {"predictions": OUT}
    assert predict(dense, {"instances": [{"in": row} for row in ROWS]}) == {"predictions": OUT}
    assert predict(dense, {"signature_name": "serving_default", "instances": ROWS[:1]}) == {"predictions": OUT[:1]}


def test_columns_of_one_input(dense: Engine) -> None:
    assert predict(dense, {"inputs": ROWS}) == {"outputs": OUT}
    assert predict(dense, {"inputs": {"in": ROWS}}) == {"outputs": OUT}


def test_two_inputs_have_names(add: Engine) -> None:
    rows = [{"a": row, "b": row} for row in ROWS]
    doubled = (2 * np.array(ROWS)).tolist()
    assert predict(add, {"instances": rows}) == {"predictions": doubled}
    assert predict(add, {"inputs": {"a": ROWS, "b": ROWS}}) == {"outputs": doubled}
    with pytest.raises(InputError, match="several inputs; name them: a, b"):
        predict(add, {"instances": ROWS})


TEXT = "where is my order"


@pytest.mark.parametrize("value", [TEXT, [TEXT], b64(TEXT), {"text": TEXT}, {"text": b64(TEXT)}, {"text": [TEXT]}])
def test_a_text_in_rows(engine: Engine, value: object) -> None:
    logits = engine.outputs_of(engine.preprocess(TEXT))[engine.outputs[0].name].tolist()
    assert predict(engine, {"instances": [value]}) == {"predictions": logits}


@pytest.mark.parametrize("value", [[TEXT], [[TEXT]], [b64(TEXT)], {"text": [TEXT]}])
def test_a_text_in_columns(engine: Engine, value: object) -> None:
    logits = engine.outputs_of(engine.preprocess(TEXT))[engine.outputs[0].name].tolist()
    assert predict(engine, {"inputs": value}) == {"outputs": logits}


def test_a_text_as_the_body_and_as_its_ids(engine: Engine) -> None:
    ids = engine.preprocess(TEXT)[0].tolist()
    by_ids = predict(engine, {"instances": ids})
    assert predict(engine, TEXT.encode(), "text/plain") == by_ids
    assert predict(engine, {"instances": [{engine.inputs[0].name: ids[0]}]}) == by_ids


@pytest.mark.parametrize(
    ("request_", "fragment"),
    [
        ({}, "either 'instances'"),
        ({"instances": ROWS, "inputs": ROWS}, "either 'instances'"),
        ({"instances": ROWS, "signature_name": "other"}, "no signature 'other'"),
        ({"instances": ROWS, "signature_name": 7}, "no signature '7'"),
        ({"instances": []}, "1 to 64"),
        ({"instances": {}}, "1 to 64"),
        ({"instances": [[0] * 4] * 65}, "1 to 64"),
        ({"instances": [[1, 2, 3]]}, "[-1, 4], not [1, 3]"),
        ({"instances": [[1, 2, 3, 4], [1, 2]]}, "unevenly"),
        ({"instances": [[1, 2, 3, [4]]]}, "not a value"),
        ({"instances": [[[1], [2], [3], 4]]}, "unevenly"),
        ({"instances": ["a"]}, "not a value of datatype FP32"),
        ({"instances": [b64("a")]}, "not a value"),
        ({"instances": [{"in": [0] * 4}, {"no": 1}]}, "the same names"),
        ({"instances": [{"in": [0] * 4}, 7]}, "the same names"),
        ({"instances": [{"no": [0] * 4}]}, "no input 'no'; the model's inputs are: in"),
        ({"instances": [{}]}, "'in' is missing"),
        ({"inputs": {}}, "'in' is missing"),
        ({"inputs": {"in": 7}}, "must be a list"),
        ({"inputs": None}, "must be a list"),
        ({"inputs": [[True] * 4]}, "not a value"),
        ({"inputs": [[1e39] * 4]}, "infinity"),
        ({"inputs": [[10**400] * 4]}, "does not fit"),
        ({"inputs": [[[[[[[[[[1]]]]]]]]]]}, "deeper than 8"),
    ],
)
def test_requests_that_do_not_fit(dense: Engine, request_: object, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        predict(dense, request_)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "fragment"),
    [
        ({"instances": [""]}, "empty"),
        ({"instances": [7]}, "shape"),
        ({"instances": [TEXT, 7]}, "a text or"),
        ({"instances": [{"b64": "!"}]}, "base64"),
        ({"instances": [{"b64": 7}]}, "a text or"),
        ({"instances": [b64(b"\xff")]}, "UTF-8"),
        ({"inputs": {"text": TEXT}}, "must be a list"),
        ({"inputs": {"text": [TEXT] * 65}}, "1 to 64"),
        ({"inputs": {"text": [TEXT], "ids": []}}, "not both"),
    ],
)
def test_texts_that_do_not_fit(engine: Engine, request_: object, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        predict(engine, request_)


def test_examples(engine: Engine) -> None:
    got = tfserving.classify({"examples": [{"text": TEXT}, {"text": b64("你好")}]}, engine)["results"]
    for result, text in zip(got, (TEXT, "你好"), strict=True):
        assert len(result) == len(engine.bundle.labels)
        assert result[0][0] == engine.classify(text).label
        assert result[0][1] == pytest.approx(engine.classify(text).score, abs=1e-6)
    context = tfserving.classify({"context": {"text": TEXT}, "examples": [{}, {"text": "你好"}]}, engine)
    assert context["results"] == got


@pytest.mark.parametrize(
    ("request_", "fragment"),
    [
        ({"examples": []}, "1 to 64"),
        ({"examples": 7}, "list of objects"),
        ({"examples": [7]}, "list of objects"),
        ({"examples": [{}], "context": 7}, "'context'"),
        ({"examples": [{"text": TEXT}], "signature_name": "x"}, "no signature"),
        ({"examples": [{"no": TEXT}]}, "no input 'no'"),
    ],
)
def test_examples_that_do_not_fit(engine: Engine, request_: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        tfserving.classify(request_, engine)


def test_examples_need_labels(dense: Engine) -> None:
    with pytest.raises(InputError, match="no labels"):
        tfserving.classify({"examples": [{"in": ROWS[0]}]}, dense)


def test_status_and_metadata(dense: Engine, engine: Engine) -> None:
    assert tfserving.status(dense)["model_version_status"][0]["state"] == "AVAILABLE"
    described = tfserving.metadata(dense)
    assert described["model_spec"] == {"name": "dense", "signature_name": "", "version": "1"}
    signature = described["metadata"]["signature_def"]["signature_def"]["serving_default"]
    dims = [{"size": "-1", "name": ""}, {"size": "4", "name": ""}]
    shape = {"dim": dims, "unknown_rank": False}
    assert signature["inputs"] == {"in": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "in"}}
    ids = tfserving.metadata(engine)["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert [one["dtype"] for one in ids.values()] == ["DT_INT32"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just({"b64": "YQ=="}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["in", "a", "text", "b64"]), inner),
    max_leaves=8,
)
NUMBERS = st.lists(st.lists(st.floats(-9, 9), min_size=3, max_size=4), max_size=3)


@given(values=ANY | NUMBERS, key=st.sampled_from(["instances", "inputs", "examples"]))
@settings(parent=shared, max_examples=400)
def test_any_request(values: object, key: str, dense: Engine, add: Engine, engine: Engine) -> None:
    for one in (dense, add, engine):
        try:
            if key == "examples":
                json.dumps(tfserving.classify({key: values}, one), allow_nan=False)
            else:
                predict(one, {key: values})
        except InputError as error:
            assert "\n" not in str(error)
