"""What is written in each format is read again by that format's own runtime and gives what the graph gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.converters import zoo

from edgekd_converters import export as exporting
from edgekd_converters.errors import ExportError, UnsupportedOpError
from edgekd_converters.export import TARGETS, draw_columns, export
from edgekd_converters.graph import Graph, Signature, read_graph
from edgekd_converters.load.equivalence import to_source
from edgekd_converters.observe import Observer, feeds

FIRST = {"image": (0, 2, 3, 1)}
"""The layout of a source with channels first."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["multi_input_output", "bert", "text_student"])
def test_a_network_in_every_format(name: str, target: str, tmp_path: Path) -> None:
    graph = zoo.graph(name)
    made = export(graph, {}, draw_columns(graph, {}, seed=3), target, tmp_path / "made")
    assert made.equivalence.max_difference < 1e-4
    assert made.equivalence.rows == 8
    assert list(made.names.values()) == [*graph.signature.inputs, *graph.signature.outputs]


def expected(graph: Graph, columns: Any) -> dict[str, Any]:
    """The reference kernels' outputs, row by row, in the graph's layout."""
    observer, rows = Observer(graph), []
    for feed in feeds(columns):
        observer.run(feed)
        rows.append(observer.outputs())
    return {name: np.concatenate([row[name] for row in rows]) for name in graph.signature.outputs}


def test_onnx_takes_any_number_of_rows_in_the_sources_layout(tmp_path: Path) -> None:
    graph = zoo.graph("resnet")
    columns = draw_columns(graph, FIRST, seed=1)
    made = export(graph, FIRST, columns, "onnx", tmp_path / "made.onnx")
    assert made.batch is None
    session = onnxruntime.InferenceSession(made.path)
    (port,) = session.get_inputs()
    assert (port.name, port.shape) == ("image", ["batch", *columns["image"].shape[1:]])
    assert port.shape[1] == 3
    (scores,) = session.run(None, {"image": columns["image"]})
    wanted = expected(graph, {"image": columns["image"].transpose(FIRST["image"])})
    np.testing.assert_allclose(scores, wanted["scores"], rtol=1e-4, atol=1e-5)
    kinds = [node.op_type for node in onnx.load(made.path).graph.node]
    assert kinds.count("Transpose") == 0


def test_onnx_has_one_row_where_rows_would_mix(tmp_path: Path) -> None:
    graph = zoo.graph("bert")
    made = export(graph, {}, draw_columns(graph, {}), "onnx", tmp_path / "made.onnx")
    assert made.batch == 1
    assert onnxruntime.InferenceSession(made.path).get_inputs()[0].shape[0] == 1


def test_a_savedmodel_serves_in_the_sources_layout(tf: Any, tmp_path: Path) -> None:
    graph = zoo.graph("unet_resize")
    (output,) = graph.signature.outputs
    layouts = {**FIRST, output: (0, 2, 3, 1)}
    columns = draw_columns(graph, layouts, seed=2)
    made = export(graph, layouts, columns, "savedmodel", tmp_path / "made")
    serve = tf.saved_model.load(str(made.path)).signatures["serving_default"]
    first = serve(image=tf.constant(columns["image"][:1]))[output].numpy()
    wanted = expected(graph, {"image": columns["image"][:1].transpose(FIRST["image"])})
    np.testing.assert_allclose(first, to_source(wanted, layouts)[output], rtol=1e-4, atol=1e-5)


def test_a_tflite_is_the_graph_itself(tmp_path: Path) -> None:
    graph = zoo.graph("resnet")
    made = export(graph, FIRST, draw_columns(graph, FIRST), "tflite", tmp_path / "made.tflite")
    assert read_graph(made.path.read_bytes()).content == graph.content


def test_names_that_tensorflow_does_not_take(tmp_path: Path) -> None:
    plain = zoo.graph("dense_autoencoder")
    (inside,), (outside,) = plain.signature.inputs.values(), plain.signature.outputs.values()
    graph = replace(plain, signature=Signature("", {"input.1": inside}, {"1/scores": outside}))
    columns = draw_columns(graph, {})
    made = export(graph, {}, columns, "savedmodel", tmp_path / "made")
    assert made.names == {"input.1": "input_1", "1/scores": "x1_scores"}
    assert export(graph, {}, columns, "onnx", tmp_path / "m").names["input.1"] == "input.1"


@pytest.mark.parametrize("target", ["onnx", "savedmodel"])
def test_a_loop_is_refused_by_name(target: str, tmp_path: Path) -> None:
    graph = zoo.graph("lstm_while")
    with pytest.raises(UnsupportedOpError, match="WHILE"):
        export(graph, {}, draw_columns(graph, {}), target, tmp_path / "made")


def test_what_computes_something_else_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph = zoo.graph("dense_autoencoder")
    weights = next(tensor for tensor in graph.tensors if tensor.is_constant and len(tensor.shape) == 2)
    other = graph.edited({weights.index: graph.constant(weights) * np.float32(1.1)}, {})
    write = exporting.write_onnx
    monkeypatch.setattr(exporting, "write_onnx", lambda _, *args, **kwargs: write(other, *args, **kwargs))
    with pytest.raises(ExportError, match="gives another output"):
        export(graph, {}, draw_columns(graph, {}), "onnx", tmp_path / "made")


def test_random_samples_fit_tables_and_kinds() -> None:
    text = zoo.graph("text_student")
    rows = min(op.inputs[0].shape[0] for op in text.main if op.name == "GATHER")
    ids = draw_columns(text, {}, seed=5)["ids"]
    assert ids.dtype == np.int32
    assert 0 <= ids.min() < ids.max() < rows
    image = draw_columns(zoo.graph("resnet"), FIRST, seed=5)["image"]
    assert (image.dtype, image.shape[1]) == (np.float32, 3)
    again = draw_columns(zoo.graph("resnet"), FIRST, seed=5)["image"]
    np.testing.assert_array_equal(image, again)
