"""The engine: named tensors in, float32 out; parts that do not fit each other are found at load, not at a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_runtime import api
from edgekd_runtime.backend import InterpreterBackend
from edgekd_runtime.bundle import Bundle, Golden, Scores, load_bundle
from edgekd_runtime.engine import MAX_BATCH, Engine
from edgekd_runtime.errors import BundleError, GoldenError, InputError
from edgekd_runtime.preprocess import TextNgram
from edgekd_runtime.routes import Site

X = np.array([[1, 2, -1, 0.5], [0, 0, 0, 0]], np.float32)
Y = [[4, 1, 3], [1, 0, -2]]  # by hand, see conftest.py


@pytest.fixture(scope="module")
def add(float_add: Callable[[int], bytes]) -> Bundle:
    return Bundle("add", float_add(1), "float32", {"a": "a", "b": "b"}, {"c": "c"})


def golden(x: npt.NDArray[Any], y: npt.NDArray[Any], backend: str = "litert", **changes: Any) -> Golden:
    return replace(Golden({"in": x}, {"out": y}, backend), **changes)


STORED_X = np.array([[5, 7, 1, 4], [3, 3, 3, 3]], np.int8)
STORED_Y = np.array([[-2, -8, -4], [-8, -10, -14]], np.int8)


# --- running ---


def test_float_input_of_an_int8_model_is_quantised(dense_bundle: Bundle) -> None:
    answer = Engine(dense_bundle).infer({"in": X})
    assert list(answer) == ["out"]
    assert answer["out"].dtype == np.float32
    assert answer["out"].tolist() == Y


def test_stored_input_of_an_int8_model_is_taken_as_it_is(dense_bundle: Bundle) -> None:
    assert Engine(dense_bundle).infer({"in": STORED_X})["out"].tolist() == Y


def test_a_float_model_with_two_inputs(add: Bundle) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert Engine(add).infer({"b": a * 10, "a": a})["c"].tolist() == (a * 11).tolist()


def test_the_largest_batch_and_one_more(dense_bundle: Bundle) -> None:
    engine = Engine(dense_bundle)
    rows = np.random.default_rng(0).integers(-128, 128, (MAX_BATCH + 1, 4)).astype(np.int8)
    together = engine.infer({"in": rows[:MAX_BATCH]})["out"]
    assert together.shape == (MAX_BATCH, 3)
    np.testing.assert_array_equal(together[17], engine.infer({"in": rows[17:18]})["out"][0])
    with pytest.raises(InputError, match="batch of 65; 1 to 64"):
        engine.infer({"in": rows})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'in' is missing"),
        ({"in": X, "more": X}, "no input 'more'"),
        ({"in": X[0]}, r"must have shape \[-1, 4\], not \[4\]"),
        ({"in": X[:, :3]}, r"must have shape \[-1, 4\], not \[2, 3\]"),
        ({"in": X[None]}, r"must have shape \[-1, 4\]"),
        ({"in": X[:0]}, "batch of 0"),
        ({"in": X.astype(np.float64)}, "must be int8, not float64"),
        ({"in": X.astype(np.uint8)}, "must be int8, not uint8"),
        ({"in": X.astype(np.int32)}, "must be int8, not int32"),
        ({"in": X * np.nan}, "NaN or infinity"),
        ({"in": X + np.inf}, "NaN or infinity"),
    ],
)
def test_input_that_does_not_fit(dense_bundle: Bundle, inputs: dict[str, npt.NDArray[Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Engine(dense_bundle).infer(inputs)


def test_batches_of_different_sizes(add: Bundle) -> None:
    with pytest.raises(InputError, match="different batch sizes"):
        Engine(add).infer({"a": np.zeros((2, 4), np.float32), "b": np.zeros((1, 4), np.float32)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_float_model_takes_no_nan_either(add: Bundle, value: float) -> None:
    # The answer would hold NaN, which JSON cannot say: the server would fail on it.
    with pytest.raises(InputError, match="NaN or infinity"):
        Engine(add).infer({"a": np.full((1, 4), value, np.float32), "b": np.zeros((1, 4), np.float32)})


# --- labels ---


def test_rank(dense_bundle: Bundle) -> None:
    engine = Engine(
        replace(dense_bundle, labels=("p", "q", "r"), threshold=0.6, answers={"p": {"en": "P"}, "q": {"en": "Q"}})
    )
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32)) + 1000  # no overflow
    best = engine.rank(logits, 2)
    assert [label for label, _ in best.top] == ["p", "q"]
    assert best.score == pytest.approx(0.7, rel=1e-3)
    assert (best.label, best.in_scope, best.answers) == ("p", True, {"en": "P"})
    unsure = engine.rank(np.log(np.array([0.3, 0.45, 0.25], np.float32)), 1)
    assert (unsure.label, unsure.in_scope, unsure.answers) == ("q", False, {})
    assert len(unsure.top) == 1
    assert len(engine.rank(logits, 99).top) == 3


def test_probabilities_are_ranked_as_they_are(dense_bundle: Bundle) -> None:
    given = replace(
        dense_bundle, scores="probabilities", labels=("p", "q", "r"), threshold=0.6, answers={"q": {"en": "Q"}}
    )
    engine = Engine(given)
    best = engine.rank(np.array([0.25, 0.625, 0.125], np.float32), 2)
    assert best.top == (("q", 0.625), ("p", 0.25))
    assert (best.in_scope, best.answers) == (True, {"en": "Q"})
    unsure = engine.rank(np.array([0.25, 0.5, 0.25], np.float32), 3)
    assert unsure.top == (("q", 0.5), ("p", 0.25), ("r", 0.25))
    assert (unsure.in_scope, unsure.answers) == (False, {})


def test_stored_probabilities_are_dequantised(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(replace(bundle, scores="probabilities", golden=None))
    spec = replace(engine.outputs[0], scale=1 / 256, zero_point=-128)
    stored = np.full((1, len(bundle.labels)), -128, np.int8)
    stored[0, 1], stored[0, 3] = 64, -64
    monkeypatch.setattr(engine, "outputs", (spec,))
    monkeypatch.setattr(engine.backend, "invoke", lambda arrays: [stored])
    first, second, _, fourth = bundle.labels[:4]
    assert engine.classify("hello", 3).top == ((second, 0.75), (fourth, 0.25), (first, 0))


@pytest.mark.parametrize("scores", ["logits", "probabilities"])
@pytest.mark.parametrize("values", [[0, np.nan, 1], [np.nan, 0, 1], [0, np.inf, 1], [np.inf, -np.inf, 0]])
def test_what_is_no_number_has_no_rank(dense_bundle: Bundle, scores: Scores, values: list[float]) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        Engine(replace(dense_bundle, labels=("p", "q", "r"), scores=scores)).rank(np.array(values, np.float32), 1)


def test_ties_go_to_the_first_label(engine: Engine) -> None:
    labels = engine.bundle.labels
    assert len(labels) > 16  # shorter arrays are sorted stably by every algorithm
    logits = (np.arange(len(labels)) % 2).astype(np.float32)
    ranked = [label for label, _ in engine.rank(logits, len(labels)).top]
    assert ranked == [*labels[1::2], *labels[::2]]


def test_a_model_without_text_or_labels_says_so(dense_bundle: Bundle) -> None:
    engine = Engine(dense_bundle)
    assert engine.takes is None
    with pytest.raises(InputError, match="does not take raw text"):
        engine.classify("hello")
    with pytest.raises(InputError, match="has no labels"):
        engine.rank(np.zeros(3, np.float32), 1)


# --- parts that do not fit ---


def test_labels_must_match_the_output(dense_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"2 labels, the model's output is \(1, 3\)"):
        Engine(replace(dense_bundle, labels=("p", "q")))


def test_preprocessing_must_match_the_input(dense_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"makes \(1, 5\)"):
        Engine(replace(dense_bundle, preprocess=TextNgram(length=5)))


def test_the_first_axis_must_be_a_batch_of_one(add: Bundle, float_add: Callable[[int], bytes]) -> None:
    with pytest.raises(BundleError, match="first axis must be a batch of 1"):
        Engine(replace(add, model=float_add(2)))


# --- golden answers ---


@pytest.mark.parametrize(("backend", "steps", "accepted"), [("litert", 1, True), ("litert", 3, False)])
def test_golden_tolerance_on_the_same_backend(dense_bundle: Bundle, backend: str, steps: int, accepted: bool) -> None:
    off = STORED_Y.copy()
    off[1, 2] += steps
    bundle = replace(dense_bundle, golden=golden(STORED_X, off, backend))
    if accepted:
        Engine(bundle)
    else:
        with pytest.raises(GoldenError, match=r"'dense' on litert .* golden sample 1 gives another 'out'"):
            Engine(bundle)


def test_golden_of_another_backend_may_differ_more_but_not_much(dense_bundle: Bundle) -> None:
    for steps, accepted in ((2, True), (30, False)):
        off = STORED_Y + np.int8(steps)
        bundle = replace(dense_bundle, golden=golden(STORED_X, off, "tflite-runtime"))
        if accepted:
            Engine(bundle)
        else:
            with pytest.raises(GoldenError, match="recorded on tflite-runtime"):
                Engine(bundle)


@pytest.mark.parametrize(("factor", "accepted"), [(1 + 1e-5, True), (1.01, False), (np.nan, False)])
def test_golden_of_a_float_model(add: Bundle, factor: float, accepted: bool) -> None:
    a = np.arange(8, dtype=np.float32).reshape(2, 4)
    recorded = Golden({"a": a, "b": a}, {"c": (2 * a * factor).astype(np.float32)}, "litert")
    if accepted:
        Engine(replace(add, golden=recorded))
    else:
        with pytest.raises(GoldenError):
            Engine(replace(add, golden=recorded))


MISFITS: dict[str, Golden] = {
    "an input of another name": Golden({"x": STORED_X}, {"out": STORED_Y}, "litert"),
    "an output of another name": Golden({"in": STORED_X}, {"y": STORED_Y}, "litert"),
    "fewer inputs than outputs": golden(STORED_X[:1], STORED_Y),
    "more inputs than outputs": golden(STORED_X, STORED_Y[:1]),
    "input too wide": golden(np.zeros((2, 5), np.int8), STORED_Y),
    "input of another dtype": golden(STORED_X.astype(np.float32), STORED_Y),
    "output of another dtype": golden(STORED_X, STORED_Y.astype(np.int16)),
    "output too narrow": golden(STORED_X, STORED_Y[:, :2]),
    "output without a batch axis": golden(STORED_X, STORED_Y[0]),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_golden_that_does_not_fit_the_model(dense_bundle: Bundle, misfit: str) -> None:
    with pytest.raises(BundleError) as caught:
        Engine(replace(dense_bundle, golden=MISFITS[misfit]))
    assert "\n" not in str(caught.value)


def test_golden_texts_are_preprocessed_again(bundle: Bundle) -> None:
    recorded = bundle.golden
    assert recorded is not None
    for texts in ((*recorded.texts[:-1], "something else"), recorded.texts[:-1], (*recorded.texts[:-1], "")):
        with pytest.raises(GoldenError):
            Engine(replace(bundle, golden=replace(recorded, texts=texts)))


def test_other_preprocessing_is_noticed(bundle: Bundle) -> None:
    assert bundle.preprocess is not None
    with pytest.raises(GoldenError, match="preprocessing gives other ids"):
        Engine(replace(bundle, preprocess=replace(bundle.preprocess, char_ngrams=(3, 5))))


# --- the text model ---


def test_ids_the_model_does_not_have_never_reach_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # LiteRT keeps the text of every failed invoke: each makes the next one slower and takes memory for good.
    engine = Engine(bundle)
    assert bundle.preprocess is not None
    invoked = []
    monkeypatch.setattr(engine.backend, "invoke", lambda arrays: invoked.append(arrays))
    length, buckets = bundle.preprocess.length, bundle.preprocess.buckets
    for place, value in ((0, -1), (0, length), (1, -1), (length - 1, buckets), (1, 2**31 - 1), (1, -(2**31))):
        ids = np.zeros((2, length), np.int32)
        ids[1, place] = value
        with pytest.raises(InputError):
            engine.infer({engine.inputs[0].name: ids})
    assert invoked == []


def test_the_extreme_ids_are_taken(bundle: Bundle, engine: Engine) -> None:
    assert bundle.preprocess is not None
    ids = np.full((1, bundle.preprocess.length), bundle.preprocess.buckets - 1, np.int32)
    ids[0, 0] = bundle.preprocess.length - 1
    assert engine.infer({engine.inputs[0].name: ids})[engine.outputs[0].name].shape == (1, len(bundle.labels))


def test_threads_share_an_engine(bundle: Bundle) -> None:
    engine = Engine(bundle, threads=2)
    assert bundle.golden is not None
    texts = bundle.golden.texts * 4
    expected = [engine.classify(text, 5) for text in texts]
    assert len({result.label for result in expected}) > 1
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(lambda text: engine.classify(text, 5), texts)) == expected


# --- layouts ---


@pytest.fixture(scope="module")
def nchw(float_relu: bytes) -> Bundle:
    """Of a model that took and gave (1, 4, 2, 3), now (1, 2, 3, 4)."""
    axes = (0, 2, 3, 1)
    return Bundle("relu", float_relu, "float32", {"x": "x"}, {"y": "y"}, layouts={"x": axes, "y": axes})


def test_callers_see_the_layout_of_the_source(nchw: Bundle) -> None:
    engine = Engine(nchw)
    assert (engine.inputs[0].shape, engine.outputs[0].shape) == ((1, 4, 2, 3), (1, 4, 2, 3))
    sent = np.random.default_rng(0).normal(size=(3, 4, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(engine.infer({"x": sent})["y"], np.maximum(sent, 0))
    with pytest.raises(InputError, match=re.escape("must have shape [-1, 4, 2, 3], not [1, 2, 3, 4]")):
        engine.infer({"x": sent[:1].transpose(0, 2, 3, 1)})


def test_layouts_survive_in_the_file(nchw: Bundle, tmp_path: Path) -> None:
    nchw.save(tmp_path / "relu.edgekd")
    assert load_bundle(tmp_path / "relu.edgekd").layouts == nchw.layouts


@pytest.mark.parametrize("axes", [(0, 1), (1, 0, 2, 3), (0, 2, 2, 1), ()])
def test_a_layout_that_is_no_order_of_the_axes_is_refused(nchw: Bundle, axes: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match=r"axes"):
        Engine(replace(nchw, layouts={"x": axes}))


def test_a_golden_run_that_fails_is_the_bundles_fault(dense_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, arrays: object) -> None:
        raise InputError("the model cannot run on this input: tensor 25 lacks data")

    monkeypatch.setattr("edgekd_runtime.pool.Pool.invoke", fail)
    with pytest.raises(GoldenError, match=r"golden sample 0: .*lacks data"):
        Engine(replace(dense_bundle, golden=golden(STORED_X, STORED_Y)))


def test_tensors_that_are_no_numbers_are_refused(dense_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Complex(InterpreterBackend):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[arg-type]
            self.inputs = tuple(replace(spec, dtype=np.dtype(np.complex64)) for spec in self.inputs)

    monkeypatch.setattr("edgekd_runtime.backend.InterpreterBackend", Complex)
    with pytest.raises(BundleError, match="complex64"):
        Engine(dense_bundle)


def test_a_model_that_cannot_run_on_zeros_is_served_by_threads(
    dense_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Engine) -> float:
        raise InputError("the model cannot run on this input: division by zero")

    monkeypatch.setattr("edgekd_runtime.routes.answer_us", fail)
    site = Site({"dense": Engine(dense_bundle)}, api.ROUTES)
    assert "dense" in site.lanes
    site.close()
