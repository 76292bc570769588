"""The engine on this machine's own kernels: the recorded answers hold, XNNPACK really runs, labels come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import GoldenError, InputError


def test_golden_answers_hold_here(bundle: Bundle) -> None:
    assert bundle.golden is not None
    assert len(bundle.golden) >= 8
    assert len(bundle.golden.texts) == len(bundle.golden)
    Engine(bundle)


def test_other_answers_than_recorded_are_noticed(bundle: Bundle) -> None:
    assert bundle.golden is not None
    name, recorded = next(iter(bundle.golden.outputs.items()))
    altered = recorded.copy()
    altered[-1, 0] = 100 if recorded[-1, 0] < 0 else -100
    with pytest.raises(GoldenError, match=f"golden sample {len(recorded) - 1} "):
        Engine(replace(bundle, golden=replace(bundle.golden, outputs={name: altered})))


def test_xnnpack_really_takes_ops(engine: Engine) -> None:
    if engine.backend.name == "litert":
        assert 0 < engine.backend.delegated_ops <= engine.backend.total_ops
    else:
        assert engine.backend.name == "tflite-runtime"
        assert engine.backend.delegated_ops == 0  # 2.14 has no XNNPACK for int8; news if this ever changes


def test_golden_texts_get_their_labels(bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    recorded = next(iter(bundle.golden.outputs.values())).astype(int)
    chosen = [bundle.labels.index(engine.classify(text).label) for text in bundle.golden.texts]
    assert len(set(chosen)) > 1
    for logits, label in zip(recorded, chosen, strict=True):
        assert logits[label] >= logits.max() - 2  # 1 step of rounding each for the winner and the runner-up


def test_scores_are_probabilities_in_order(bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    result = engine.classify(bundle.golden.texts[0], top_k=len(bundle.labels))
    scores = [score for _, score in result.top]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert {label for label, _ in result.top} == set(bundle.labels)
    assert (result.label, result.score) == result.top[0]


def test_there_is_always_a_best_label(engine: Engine, bundle: Bundle) -> None:
    text = bundle.golden.texts[0]
    assert engine.classify(text, top_k=0) == engine.classify(text, top_k=1)


def test_a_batch_answers_like_its_rows(bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    rows = next(iter(bundle.golden.inputs.values()))[:4]
    name, output = engine.inputs[0].name, engine.outputs[0].name
    together = engine.infer({name: rows})[output]
    apart = [engine.infer({name: row[None]})[output][0] for row in rows]
    np.testing.assert_array_equal(together, np.stack(apart))
    assert together.dtype == np.float32


@pytest.mark.parametrize("text", ["", "   ", "…", "\ud800"])
def test_a_text_without_words_is_the_callers_fault(engine: Engine, text: str) -> None:
    with pytest.raises(InputError):
        engine.classify(text)


def test_ids_out_of_range_do_not_harm_later_answers(bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    assert bundle.preprocess is not None
    text = bundle.golden.texts[0]
    before = engine.classify(text)
    name, length = engine.inputs[0].name, bundle.preprocess.length
    for bad in (-1, bundle.preprocess.buckets, 2**31 - 1, -(2**31)):
        ids = np.zeros((1, length), np.int32)
        ids[0, :2] = 1, bad
        with pytest.raises(InputError):
            engine.infer({name: ids})
    assert engine.classify(text) == before
