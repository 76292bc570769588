"""Pooling over three axes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.converters.load.onnx_models import node, value, write

from edgekd_converters.load.equivalence import compare
from edgekd_converters.load.onnx import open_source
from edgekd_converters.load.onnx_volume import with_flat_pools
from edgekd_converters.load.source import LoadOptions

SIZES = (1, 2, 5, 6, 7)
VOLUME = np.random.default_rng(0).normal(size=SIZES).astype(np.float32)
FLAT = ["Reshape", "Pool", "Reshape", "Pool", "Reshape"]


def pool(path: Path, op: str, **attributes: Any) -> onnx.ModelProto:
    write(path, [node(op, "x", "y", **attributes)], [value("x", SIZES)], [value("y", None)])
    return onnx.load(path)


def answers(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": VOLUME})[0]


def ops(model: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in model.graph.node]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("MaxPool", {"kernel_shape": (2, 3, 2)}),
        ("MaxPool", {"kernel_shape": (3, 3, 3), "strides": (2, 1, 3), "pads": (1, 0, 1, 0, 1, 1)}),
        ("AveragePool", {"kernel_shape": (2, 2, 3), "strides": (2, 2, 2)}),
        ("AveragePool", {"kernel_shape": (3, 3, 3), "strides": (1, 2, 2), "pads": (1, 1, 1, 1, 1, 1)}),
        ("AveragePool", {"kernel_shape": (3, 2, 3), "pads": (1, 0, 1, 1, 1, 1), "count_include_pad": 1}),
    ],
)
def test_it_becomes_two_of_two_axes(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    model = pool(tmp_path / "m.onnx", op, **attributes)
    flat = with_flat_pools(model)
    assert ops(flat) == [one.replace("Pool", op) for one in FLAT]
    np.testing.assert_allclose(answers(flat), answers(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [{"ceil_mode": 1}, {"dilations": (2, 1, 1)}, {"auto_pad": "SAME_UPPER"}],
    ids=["ceil", "dilated", "unsettled"],
)
def test_others_stay(tmp_path: Path, attributes: dict[str, Any]) -> None:
    model = pool(tmp_path / "m.onnx", "MaxPool", kernel_shape=(2, 2, 2), strides=(2, 2, 2), **attributes)
    assert ops(with_flat_pools(model)) == ["MaxPool"]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_model_with_one_converts(tmp_path: Path, op: str) -> None:
    pool(tmp_path / "m.onnx", op, kernel_shape=(2, 3, 3), strides=(2, 2, 2), pads=(0, 1, 1, 0, 1, 1))
    source = open_source(tmp_path / "m.onnx", LoadOptions())
    assert compare(source.graph, source.layouts, {"x": VOLUME}, source.run).equal
