"""``edgekd convert`` from ONNX: what it says of the source; the device takes the source's own layout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import opening
from edgekd.finding import error
from edgekd_converters.load import Opened
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine

SIZE, CLASSES, ROWS = 8, 3, 120


def pictures() -> npt.NDArray[np.float32]:
    """``(n, 3, 8, 8)``, smooth, each class with a colour of its own."""
    rng = np.random.default_rng(0)
    colour = np.eye(3, dtype=np.float32)[np.arange(ROWS) % CLASSES][:, :, None, None]
    ramp = np.linspace(0, 1, SIZE, dtype=np.float32)
    noise = rng.normal(0, 0.05, (ROWS, 3, SIZE, SIZE)).astype(np.float32)
    return colour + (ramp[:, None] + ramp[None, :]) * rng.uniform(0, 1, (ROWS, 1, 1, 1)).astype(np.float32) + noise


def write_onnx(path: Path, batch: int | str = "batch") -> Path:
    """A convolution that copies the colours, their means, and a dense layer: NCHW, as PyTorch writes it."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.05, (8, 3, 3, 3)).astype(np.float32)
    kernel[:3, :, 1, 1] += np.eye(3, dtype=np.float32)
    dense = np.zeros((8, CLASSES), np.float32)
    dense[:3] = 4 * np.eye(3)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(dense, "dense")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, image=pictures(), y=np.arange(ROWS) % CLASSES)
    return path


@pytest.fixture(scope="module")
def converted(cli: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    model = write_onnx(folder / "colours.onnx")
    result = cli("convert", model, "--samples", data, "--eval", data, "--output", folder / "out", "--quiet")
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_the_report_says_what_the_source_takes(converted: Path) -> None:
    source = json.loads((converted / "report.json").read_text())["source"]
    assert source["format"] == "onnx"
    assert source["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 3, 8, 8], "axes": [0, 2, 3, 1]}]
    assert source["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [1, 3], "axes": None}]
    equivalence = source["equivalence"]
    assert equivalence["equal"]
    assert equivalence["rows"] == 100
    assert 0 <= equivalence["mean_difference"] <= equivalence["max_difference"] < 1e-4


def test_the_device_takes_the_layout_of_the_source(converted: Path) -> None:
    engine = Engine(load_bundle(converted / "out.edgekd"))
    assert engine.inputs[0].shape == (1, 3, SIZE, SIZE)
    answers = engine.infer({"image": pictures()[:30]})["logits"]
    assert (answers.argmax(1) == np.arange(30) % CLASSES).mean() > 0.9


def test_the_whole_conversion_goes_without_a_network(data: Path, tmp_path: Path) -> None:
    """The parent, which is not shut off otherwise, cannot open a socket either, nor can what it starts."""
    model, out = write_onnx(tmp_path / "colours.onnx"), tmp_path / "out"
    code = "from edgekd_converters.load.offline import refuse_network; refuse_network(); import edgekd.__main__"
    command = [sys.executable, "-c", code, "convert", model, "--samples", data, "--output", out, "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout)["source"]["equivalence"]["equal"]


def test_another_order_of_axes_is_refused(fails: Any, data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "nhwc.npz", image=pictures().transpose(0, 2, 3, 1))
    model = write_onnx(tmp_path / "colours.onnx")
    message = fails(2, "convert", model, "--samples", tmp_path / "nhwc.npz", "--output", tmp_path / "out")
    assert "'image' must have shape [n, 3, 8, 8], not [120, 8, 8, 3]; its channels come last" in message
    assert "array.transpose(0, 3, 1, 2)" in message


def test_strict_makes_findings_errors(cli: Any, fails: Any, data: Path, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "colours.onnx")
    few = tmp_path / "few.npz"
    np.savez(few, image=pictures()[:8])
    arguments = ["convert", model, "--samples", few, "--output", tmp_path / "out"]
    message = fails(2, *arguments, "--strict")
    assert "only 8 samples" in message
    assert not (tmp_path / "out").exists()
    result = cli(*arguments)
    assert result.exit_code == 0
    assert "warning (too-few): only 8 samples" in " ".join(result.stdout.split())
    findings = json.loads((tmp_path / "out" / "report.json").read_text())["samples"]["findings"]
    assert "too-few" in [one["code"] for one in findings]


def test_samples_that_are_useless_fail_without_strict(
    fails: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "lint", lambda *args, **kwargs: [error("nan", "'image': all is lost")])
    message = fails(2, "convert", write_onnx(tmp_path / "c.onnx"), "--samples", data, "--output", tmp_path / "out")
    assert message.endswith("pictures.npz: 'image': all is lost\n")
    assert not (tmp_path / "out").exists()


def test_open_sizes_are_asked_for_by_name(cli: Any, fails: Any, data: Path, tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "fixed.onnx"))
    for axis, size in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = size
    onnx.save(model, tmp_path / "open.onnx")
    arguments = ["convert", tmp_path / "open.onnx", "--samples", data, "--output", tmp_path / "out"]
    message = fails(1, *arguments)
    assert "'image'" in message
    assert "--shape image=" in message
    assert cli(*arguments, "--shape", "image=1,3,8,8", "--quiet").exit_code == 0


def test_a_float_graph_that_differs_stops_the_conversion(
    fails: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Opened.run

    def other(self: Opened, columns: Any) -> dict[str, Any]:
        return {name: 1.01 * values for name, values in run(self, columns).items()}

    monkeypatch.setattr(Opened, "run", other)
    model = write_onnx(tmp_path / "colours.onnx")
    message = fails(1, "convert", model, "--samples", data, "--output", tmp_path / "out")
    assert message.startswith("edgekd: compare: the float graph does not compute what the model does: output 'logits'")
    assert not (tmp_path / "out").exists()
