"""Files that are not what they say: one line, nothing allocated, nothing opened outside the model's folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tests.converters.load.onnx_models import image_net, node, value, weights, write

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.load.onnx import open_source
from edgekd_converters.load.onnx_file import read_model
from edgekd_converters.load.source import LoadOptions


def refused(path: Path) -> str:
    started = time.perf_counter()
    with pytest.raises(LoadError) as caught:
        open_source(path, LoadOptions())
    assert time.perf_counter() - started < 10
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def rewritten(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        open_source(tmp_path / "m.onnx", LoadOptions())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 not at all", "not an ONNX model"),
        (b"hello, world\n" * 50, "not an ONNX model"),
        (b"\x08\x09", "no graph"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert message in refused(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_short(tmp_path: Path, share: float) -> None:
    path = image_net(tmp_path / "m.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refused(path)


def test_a_giant_that_is_only_declared(tmp_path: Path) -> None:
    def grow(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = [1 << 20, 1 << 20, 3, 3]

    assert "declares" in refused(rewritten(image_net(tmp_path / "m.onnx"), grow))


def test_a_giant_in_a_node(tmp_path: Path) -> None:
    giant = TensorProto(dims=[1 << 40], data_type=TensorProto.FLOAT, float_data=[1.0])
    nodes = [node("Constant", "", "k", value=giant), node("Add", "x k", "y")]
    message = refused(write(tmp_path / "m.onnx", nodes, [value("x", [1])], [value("y", None)]))
    assert "declares 1,099,511,627,776 numbers and holds 1" in message


def test_a_giant_that_is_filled_when_it_runs(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", "size", "k"), node("ReduceMax", "k", "m"), node("Add", "x m", "y")]
    size = {"size": np.array([1 << 20, 1 << 20], np.int64)}
    path = write(tmp_path / "m.onnx", nodes, [value("x", (1, 3))], [value("y", None)], size)
    assert "it fills 4,398,046,511,104 bytes with constants" in refused(path)


def test_a_giant_input(tmp_path: Path) -> None:
    assert "numbers; at most" in refused(image_net(tmp_path / "m.onnx", (1, 3, 1 << 20, 1 << 20)))


def external(path: Path, location: str, **entries: str) -> Path:
    def move(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=text)

    return rewritten(image_net(path), move)


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    kernel = weights(4, 3, 3, 3)
    (tmp_path / "w.bin").write_bytes(b"\0" * 64 + kernel.tobytes())
    path = external(tmp_path / "m.onnx", "w.bin", offset="64", length=str(kernel.nbytes))
    np.testing.assert_array_equal(numpy_helper.to_array(read_model(path).graph.initializer[0]), kernel)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "", ".", "link"])
def test_weights_elsewhere(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(weights(4, 3, 3, 3).tobytes())
    (folder / "link").symlink_to(tmp_path / "w.bin")
    assert "outside the model's folder" in refused(external(folder / "m.onnx", location))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "not there"),
        ({"offset": "-8"}, "does not hold"),
        ({"offset": "1000000"}, "does not hold"),
        ({"length": "4"}, "does not hold"),
        ({"offset": "many"}, "damaged"),
    ],
)
def test_weights_that_are_not_there(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    if entries:
        (tmp_path / "w.bin").write_bytes(weights(4, 3, 3, 3).tobytes())
    assert message in refused(external(tmp_path / "m.onnx", "w.bin", **entries))


def test_an_input_that_is_no_tensor(tmp_path: Path) -> None:
    kind = onnx.helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    path = write(tmp_path / "m.onnx", [node("SequenceLength", "s", "y")], [kind], [value("y", [], TensorProto.INT64)])
    assert "input 's' is not a tensor" in refused(path)


def test_an_opset_of_the_future(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [node("Relu", "x", "y")], [value("x", [1, 2])], [value("y", None)], opset=99)
    assert "opset 99" in refused(path)
