"""Average pooling whose padding does not count."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.converters.load.onnx_models import node, value, write

from edgekd_converters.load.equivalence import compare
from edgekd_converters.load.onnx import open_source
from edgekd_converters.load.onnx_pool import with_plain_pools
from edgekd_converters.load.source import LoadOptions

SIZES = (1, 2, 6, 7)
IMAGE = np.random.default_rng(0).normal(size=SIZES).astype(np.float32)


def pool(path: Path, opset: int = 17, **attributes: Any) -> onnx.ModelProto:
    write(path, [node("AveragePool", "x", "y", **attributes)], [value("x", SIZES)], [value("y", None)], opset=opset)
    return onnx.load(path)


def answers(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": IMAGE})[0]


@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [((7, 8), (1, 1), (0, 0, 1, 1)), ((8, 9), (2, 2), (1, 1, 1, 1)), ((6, 2), (6, 7), (0, 1, 0, 0))],
)
def test_it_becomes_padding_plain_pooling_and_a_factor(
    tmp_path: Path, kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]
) -> None:
    model = pool(tmp_path / "m.onnx", kernel_shape=kernel, strides=strides, pads=pads)
    plain = with_plain_pools(model)
    assert [one.op_type for one in plain.graph.node] == ["Pad", "AveragePool", "Mul"]
    np.testing.assert_allclose(answers(plain), answers(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": (3, 3)},
        {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)},
        {"kernel_shape": (7, 8), "pads": (0, 0, 1, 1), "count_include_pad": 1},
        {"kernel_shape": (7, 8), "pads": (0, 0, 1, 1), "ceil_mode": 1},
        {"kernel_shape": (7, 8), "pads": (0, 0, 1, 1), "opset": 10},
    ],
)
def test_others_stay(tmp_path: Path, attributes: dict[str, Any]) -> None:
    plain = with_plain_pools(pool(tmp_path / "m.onnx", **attributes))
    assert [one.op_type for one in plain.graph.node] == ["AveragePool"]


def test_one_window_over_all_with_padding_at_the_end(tmp_path: Path) -> None:
    """As GoogLeNet ends; onnx2tf alone divides by the padding too."""
    pool(tmp_path / "m.onnx", kernel_shape=(7, 8), pads=(0, 0, 1, 1))
    source = open_source(tmp_path / "m.onnx", LoadOptions())
    assert compare(source.graph, source.layouts, {"x": IMAGE}, source.run).equal
