"""Transposed convolutions whose stride exceeds their output: XNNPACK would write past its buffer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tests.converters.one_op import Array, Case, Given, build, ints, options
from tests.converters.reals import in_int8, one_op_feeds, real_outputs, relative_error

from edgekd_converters.condition import condition
from edgekd_converters.graph import Graph
from edgekd_converters.load import tflite
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.strides import fit_strides
from edgekd_converters.tflite_model import load_tflite

SAME, VALID = 0, 1
# Padding, strides, window, input and output size of height and width.
REACHING = [
    (SAME, (3, 3), (2, 3), (1, 1), (1, 1)),
    (SAME, (4, 2), (3, 3), (1, 2), (2, 4)),
    (VALID, (5, 4), (2, 1), (1, 1), (3, 2)),
    (VALID, (1, 3), (2, 1), (3, 1), (4, 1)),
]
FITTING = [(SAME, (2, 2), (3, 3), (2, 2), (4, 3)), (VALID, (2, 1), (2, 2), (1, 3), (2, 4))]


def transposed(
    padding: int, strides: tuple[int, int], window: tuple[int, int], given: tuple[int, int], made: tuple[int, int]
) -> Case:
    rng = np.random.default_rng(4)
    stated = options("TransposeConv", padding=padding, strideH=strides[0], strideW=strides[1])
    weights = rng.normal(0, 1, (3, *window, 2)).astype(np.float32)
    bias = rng.normal(0, 1, 3).astype(np.float32)
    return Case(stated, (ints(1, *made, 3), weights, Given((1, *given, 2)), bias))


def reference(model_content: bytes) -> Any:
    """Without XNNPACK."""
    return Interpreter(
        model_content=model_content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )


def outputs(graph: Graph, case: Case, runtime: Any = Interpreter) -> Array:
    return real_outputs(graph, one_op_feeds(case), runtime)["y0"]


@pytest.mark.parametrize("sizes", REACHING)
def test_a_stride_beyond_the_output_is_made_fitting(sizes: Any, tmp_path: Path) -> None:
    case = transposed(*sizes)
    original = build("TRANSPOSE_CONV", case)
    fitted = fit_strides(original)
    (op,) = fitted.main
    assert op.options.strideH <= sizes[4][0]
    assert op.options.strideW <= sizes[4][1]
    wanted = outputs(original, case, reference)
    np.testing.assert_allclose(outputs(fitted, case, reference), wanted, atol=1e-6)
    for _ in range(20):  # what overwrites the heap does not crash every time
        np.testing.assert_allclose(outputs(fitted, case), wanted, atol=1e-5)
    assert condition(original).content == fitted.content
    path = tmp_path / "model.tflite"
    path.write_bytes(original.content)
    assert load_tflite(path).content == fitted.content
    feed = one_op_feeds(case, 1)[0]
    np.testing.assert_allclose(tflite.open_source(path, LoadOptions()).run(feed)["y0"], wanted[0], atol=1e-5)
    int8 = in_int8(original, one_op_feeds(case))
    assert relative_error({"y0": wanted}, {"y0": outputs(int8, case)}) < 0.05


@pytest.mark.parametrize("sizes", FITTING)
def test_others_are_left_alone(sizes: Any) -> None:
    graph = build("TRANSPOSE_CONV", transposed(*sizes))
    assert fit_strides(graph) is graph
