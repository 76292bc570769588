"""The fallback interpreter of 32-bit ARM answers like LiteRT, to the golden tolerance and in its labels."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd_runtime.backend import open_model
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import GoldenError

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheels for Python 3.12")

EVAL = Path(__file__).parents[2] / "examples" / "customer_service" / "eval.csv"
SENTENCES = 200


@pytest.fixture(scope="module")
def fallback(bundle: Bundle) -> Engine:
    assert bundle.golden is not None
    assert bundle.golden.backend == "litert"
    return Engine(bundle, backend="tflite-runtime", threads=1)  # checks the golden answers across backends


@pytest.fixture(scope="module")
def texts() -> list[str]:
    with EVAL.open(encoding="utf-8") as file:
        rows = [row["text"] for row in csv.DictReader(file)]
    return rows[:: len(rows) // SENTENCES][:SENTENCES]


def test_it_is_what_it_says(fallback: Engine) -> None:
    assert (fallback.backend.name, fallback.backend.version[:4]) == ("tflite-runtime", "2.14")
    assert fallback.backend.delegated_ops == 0
    assert fallback.backend.total_ops > 0


def test_auto_takes_it_where_litert_is_missing(int8_dense: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert open_model(int8_dense, {"in": "x"}, {"out": "y"}).name == "tflite-runtime"


def test_labels_agree_and_logits_differ_by_rounding_only(fallback: Engine, engine: Engine, texts: list[str]) -> None:
    assert len(texts) == SENTENCES
    assert engine.backend.name == "litert"

    def stored(one: Engine) -> np.ndarray:
        return np.stack([one.invoke(one.preprocess(text))[0][0].astype(int) for text in texts])

    ours, theirs = stored(engine), stored(fallback)
    steps = np.abs(ours - theirs)
    agree = float((ours.argmax(1) == theirs.argmax(1)).mean())
    print(f"top-1 agrees on {agree:.1%}; int8 steps apart, 0 … max: {np.bincount(steps.ravel()).tolist()}")
    assert len(set(ours.argmax(1))) > 10
    assert agree >= 0.98
    assert steps.max() <= 3
    assert (steps > 0).mean() < 0.1


def test_wrong_answers_are_noticed_across_backends(bundle: Bundle) -> None:
    assert bundle.golden is not None
    rolled = {name: np.roll(array, 1, axis=0) for name, array in bundle.golden.outputs.items()}
    with pytest.raises(GoldenError, match="recorded on litert"):
        Engine(replace(bundle, golden=replace(bundle.golden, outputs=rolled)), backend="tflite-runtime", threads=1)


def test_float_input_is_quantised_alike(int8_dense: bytes) -> None:
    bundle = Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"})
    x = np.random.default_rng(0).uniform(-6, 6, (64, 4)).astype(np.float32)
    infer: Callable[[str], np.ndarray] = lambda backend: Engine(bundle, backend=backend).infer({"in": x})["out"]  # noqa: E731
    assert np.abs(infer("litert") - infer("tflite-runtime")).max() <= 0.5  # one step
