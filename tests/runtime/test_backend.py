"""Interpreters behind one interface: numbers in and out, counts of delegated ops, errors in one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd_runtime import backend
from edgekd_runtime.backend import TensorSpec, open_model
from edgekd_runtime.errors import BackendError, InputError

INT8 = TensorSpec("x", (1, 4), np.dtype(np.int8), 0.5, 3)


def test_quantise_rounds_and_clips() -> None:
    real = np.array([0, 0.5, 0.74, 0.76, -0.76, 1e9, -3e38], np.float32)
    with warnings.catch_warnings(action="error"):  # a client's number must not write to the server's log
        stored = INT8.quantize(real)
    assert stored.dtype == np.int8
    assert stored.tolist() == [3, 4, 4, 5, 1, 127, -128]
    assert INT8.dequantize(stored)[:2].tolist() == [0.0, 0.5]


@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=8))
def test_quantising_loses_at_most_half_a_step(values: list[float]) -> None:
    real = np.array(values, np.float32)
    back = INT8.dequantize(INT8.quantize(real))
    assert back.dtype == np.float32
    assert np.abs(back - real).max() <= 0.25 + 1e-6


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=8))
def test_stored_values_survive_the_round_trip(values: list[int]) -> None:
    stored = np.array(values, np.int8)
    np.testing.assert_array_equal(INT8.quantize(INT8.dequantize(stored)), stored)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_every_stored_value_stands_for_its_real(dtype: type) -> None:
    spec = TensorSpec("x", (1, 256), np.dtype(dtype), 0.1, 7)
    stored = (
        np.arange(-128 if dtype != np.uint8 else 0, 128 if dtype != np.uint8 else 256).astype(dtype).reshape(1, 256)
    )
    real = spec.dequantize(stored)
    assert (real.dtype, real.shape) == (np.float32, (1, 256))
    np.testing.assert_array_equal(real, (stored.astype(np.float32) - 7) * np.float32(0.1))


def test_what_has_no_scale_is_only_converted() -> None:
    plain = TensorSpec("ids", (1, 2), np.dtype(np.int32))
    assert plain.quantize(np.array([1, 2], np.float32)).tolist() == [1, 2]
    assert plain.dequantize(np.array([1, 2], np.int32)).dtype == np.float32


def test_int8_model_runs_and_is_delegated(int8_dense: bytes) -> None:
    opened = open_model(int8_dense, {"in": "x"}, {"out": "y"}, threads=1)
    assert (opened.name, opened.delegated_ops, opened.total_ops) == ("litert", 1, 1)
    assert (opened.inputs[0].scale, opened.inputs[0].zero_point) == (0.5, 3)
    assert (opened.inputs[0].name, opened.inputs[0].shape, opened.inputs[0].dtype) == ("in", (1, 4), np.int8)
    stored = opened.inputs[0].quantize(np.array([[1, 2, -1, 0.5]], np.float32))
    real = opened.outputs[0].dequantize(opened.invoke([stored])[0])
    assert real.tolist() == [[4, 1, 3]]  # W·x + b by hand: 4, 1, 3


def test_results_are_not_overwritten_by_the_next_run(int8_dense: bytes) -> None:
    opened = open_model(int8_dense, {"in": "x"}, {"out": "y"})
    first = opened.invoke([np.full((1, 4), 3, np.int8)])[0]
    kept = first.copy()
    opened.invoke([np.full((1, 4), 50, np.int8)])
    np.testing.assert_array_equal(first, kept)


def test_inputs_come_in_the_order_of_their_names(float_add: Callable[[int], bytes]) -> None:
    opened = open_model(float_add(1), {"second": "b", "first": "a"}, {"sum": "c"})
    assert [spec.name for spec in opened.inputs] == ["second", "first"]
    one, two = np.ones((1, 4), np.float32), np.full((1, 4), 2, np.float32)
    assert opened.invoke([one, two])[0].tolist() == [[3, 3, 3, 3]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"in": "nope"}, {"out": "y"}, "no input tensor 'nope'"),
        ({"in": "x"}, {"out": "x"}, "no output tensor 'x'"),
        ({}, {"out": "y"}, "1 inputs.*names 0"),
        ({"in": "x", "again": "x"}, {"out": "y"}, "1 inputs.*names 2"),
        ({"in": "x"}, {}, "1 outputs.*names 0"),
    ],
)
def test_names_that_do_not_fit_the_model(
    int8_dense: bytes, inputs: dict[str, str], outputs: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        open_model(int8_dense, inputs, outputs)


def test_one_tensor_under_two_names_is_not_two_inputs(float_add: Callable[[int], bytes]) -> None:
    with pytest.raises(BackendError, match="names"):
        open_model(float_add(1), {"first": "a", "second": "a"}, {"sum": "c"})


@pytest.mark.parametrize("model", [b"", b"no model", b"\0" * 1000])
def test_what_is_no_model_is_refused_in_one_line(model: bytes) -> None:
    with pytest.raises(BackendError, match="refuses the model") as caught:
        open_model(model, {}, {})
    assert "\n" not in str(caught.value)


def test_a_tensor_name_that_is_no_text_is_refused_in_one_line(int8_dense: bytes) -> None:
    named = b"\1\0\0\0%b\0"
    assert int8_dense.count(named % b"x") == 1
    with pytest.raises(BackendError, match="refuses the model: 'utf-8'") as caught:
        open_model(int8_dense.replace(named % b"x", named % b"\xff"), {"in": "x"}, {"out": "y"})
    assert "\n" not in str(caught.value)


def test_a_failed_run_is_the_inputs_fault(float_add: Callable[[int], bytes]) -> None:
    opened = open_model(float_add(1), {"a": "a", "b": "b"}, {"c": "c"})

    class Failing:
        def set_tensor(self, *_: object) -> None: ...

        def invoke(self) -> None:
            raise RuntimeError("out of bounds\nNode 3 failed")

    opened._interpreter = Failing()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="cannot run on this input: out of bounds Node 3") as caught:
        opened.invoke([np.zeros((1, 4), np.float32)] * 2)
    assert "\n" not in str(caught.value)


def test_auto_falls_back_and_says_so_when_nothing_is_left(int8_dense: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"in": "x"}, {"out": "y"}
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(BackendError, match="no interpreter is installed: pip install ai-edge-litert"):
        open_model(int8_dense, *names)
    with pytest.raises(BackendError, match=r"litert is not installed here.*pip install ai-edge-litert"):
        open_model(int8_dense, *names, backend="litert")


def test_loading_is_silent_and_leaves_stderr_alone(int8_dense: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    open_model(int8_dense, {"in": "x"}, {"out": "y"})
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_loading_without_a_standard_error(int8_dense: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    assert open_model(int8_dense, {"in": "x"}, {"out": "y"}).total_ops == 1


def test_threads_follow_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert backend.default_threads() == expected
