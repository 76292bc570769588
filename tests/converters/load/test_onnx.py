"""The ONNX front end on small models: what it gives computes what onnxruntime computes, under the source's names."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from tests.converters.load.onnx_models import INT64, image_net, node, value, weights, write

from edgekd_converters.errors import LoadError, RunError
from edgekd_converters.load.equivalence import compare
from edgekd_converters.load.onnx import open_source
from edgekd_converters.load.source import LoadOptions, Source


def columns_of(source: Source, rows: int = 3) -> dict[str, npt.NDArray[Any]]:
    """Random rows for every input, in the source's layout."""
    random = np.random.default_rng(7)
    tensors = {tensor.name: tensor for tensor in source.graph.tensors}
    columns = {}
    for name, tensor_name in source.graph.signature.inputs.items():
        shape, axes = tensors[tensor_name].shape, source.layouts.get(name)
        assert shape[0] == 1
        shape = tuple(shape[i] for i in np.argsort(axes)) if axes else shape
        drawn = random.standard_normal((rows, *shape[1:])).astype(np.float32)
        columns[name] = drawn if tensors[tensor_name].dtype == "FLOAT32" else random.integers(0, 2, drawn.shape)
    return columns


def opened(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Source:
    """The source, which is the same as its graph."""
    source = open_source(path, LoadOptions(shapes or {}))
    result = compare(source.graph, source.layouts, columns_of(source), source.run)
    assert result.equal, result
    return source


def names(source: Source) -> tuple[list[str], list[str]]:
    return list(source.graph.signature.inputs), list(source.graph.signature.outputs)


def test_an_image_network_keeps_names_and_order_and_goes_channels_last(tmp_path: Path) -> None:
    source = opened(image_net(tmp_path / "m.onnx"))
    assert names(source) == (["image"], ["zz_map", "logits"])
    assert source.layouts["image"] == (0, 2, 3, 1)
    assert source.graph.inputs[0].shape == (1, 8, 8, 3)
    outputs = source.run({"image": np.zeros((4, 3, 8, 8), np.float32)})
    assert {name: array.shape for name, array in outputs.items()} == {"zz_map": (4, 4, 8, 8), "logits": (4, 5)}


def test_nothing_is_written_printed_or_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    path = image_net(tmp_path / "m.onnx")
    before = path.read_bytes()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    open_source(Path("m.onnx"), LoadOptions())
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == before
    assert Path.cwd() == tmp_path
    assert {k: v for k, v in os.environ.items() if k.startswith("TF_USE")} == {
        k: v for k, v in environment.items() if k.startswith("TF_USE")
    }
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sizes", [(1, 3, 3, 3), (1, 3, 5, 5)])
def test_axes_that_shapes_cannot_tell_apart(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    nodes = [node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    path = write(tmp_path / "m.onnx", nodes, [value("x", sizes)], [value("y", None)], {"w": weights(3, 3, 3, 3)})
    source = opened(path)
    assert source.layouts["x"] == (0, 2, 3, 1)


def test_a_model_that_is_channels_last_already_stays_so(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c"),
        node("Transpose", "c", "y", perm=[0, 2, 3, 1]),
    ]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 6, 5, 3])], [value("y", None)], {"w": weights(4, 3, 3, 3)})
    source = opened(path)
    assert not source.layouts
    assert [op.name for op in source.graph.main if op.name == "TRANSPOSE"] == []


@pytest.mark.parametrize(("sizes", "kernel"), [((1, 4, 12), (5, 4, 3)), ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2))])
def test_one_and_three_spatial_axes(tmp_path: Path, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "y")]
    path = write(tmp_path / "m.onnx", nodes, [value("x", sizes)], [value("y", None)], {"w": weights(*kernel)})
    source = opened(path)
    assert source.layouts["x"] == (0, *range(2, len(sizes)), 1)


def test_a_sequence_is_not_taken_for_an_image(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Softmax", "m", "y", axis=-1)]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 7, 6])], [value("y", None)], {"w": weights(6, 4)})
    assert not opened(path).layouts


def test_token_ids_and_mask_with_a_length_of_the_users(tmp_path: Path) -> None:
    nodes = [
        node("Gather", "table input_ids", "e"),
        node("Cast", "attention_mask", "m", to=TensorProto.FLOAT),
        node("Unsqueeze", "m axis", "m3"),
        node("Mul", "e m3", "masked"),
        node("ReduceMean", "masked", "embedding", axes=[1], keepdims=0),
    ]
    inputs = [value(name, ["batch", "length"], INT64) for name in ("input_ids", "attention_mask")]
    constants = {"table": weights(9, 6), "axis": np.array([-1])}
    path = write(tmp_path / "m.onnx", nodes, inputs, [value("embedding", ["batch", 6])], constants)
    source = opened(path, {"input_ids": (1, 5)})  # the mask has the same length, since it has the same name
    assert names(source) == (["input_ids", "attention_mask"], ["embedding"])
    assert source.run(columns_of(source, 4))["embedding"].shape == (4, 6)
    with pytest.raises(LoadError, match=r"'input_ids' has unknown sizes \[batch, length\].*--shape input_ids=1,128"):
        open_source(path, LoadOptions())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"'image' has unknown sizes \[n, 3, height, width\]; say which, such as --shape image=1,3,224,224"),
        ({"image": (1, 3, 8)}, r"--shape image=1,3,8: the model's input is \[n, 3, height, width\]"),
        ({"image": (1, 4, 8, 8)}, "--shape image=1,4,8,8"),
        ({"image": (2, 3, 8, 8)}, "--shape image=2,3,8,8: .* batch of 1"),
        ({"picture": (1, 3, 8, 8)}, "'?picture'?: the model has no such input; it has 'image'"),
    ],
)
def test_sizes_are_asked_for(tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    path = image_net(tmp_path / "m.onnx", ("n", 3, "height", "width"))
    with pytest.raises(LoadError, match=message):
        open_source(path, LoadOptions(shapes))


def test_sizes_that_are_given(tmp_path: Path) -> None:
    path = image_net(tmp_path / "m.onnx", ("n", 3, "height", "width"))
    source = opened(path, {"image": (1, 3, 6, 10)})
    assert source.graph.inputs[0].shape == (1, 6, 10, 3)


def test_a_fixed_batch_becomes_one_when_asked(tmp_path: Path) -> None:
    path = image_net(tmp_path / "m.onnx", (4, 3, 8, 8))
    source = opened(path, {"image": (1, 3, 8, 8)})
    assert source.graph.inputs[0].shape == (1, 8, 8, 3)
    assert opened(path).graph.inputs[0].shape == (1, 4, 8, 8, 3)  # otherwise the four are one sample


def test_a_batch_whose_rows_depend_on_each_other(tmp_path: Path) -> None:
    nodes = [node("ReduceMax", "x", "m", axes=[0]), node("Sub", "x m", "y")]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [4, 3])], [value("y", None)])
    with pytest.raises(LoadError, match="fixed batch of 4, whose rows depend on each other"):
        open_source(path, LoadOptions({"x": (1, 3)}))


def test_inputs_without_a_batch_get_one(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Mul", "m scale", "y"), node("ReduceSum", "y", "total", keepdims=0)]
    inputs, outputs = [value("x", [3, 4]), value("scale", [])], [value("y", None), value("total", [])]
    source = opened(write(tmp_path / "m.onnx", nodes, inputs, outputs, {"w": weights(4, 2)}))
    made = source.run({"x": np.ones((5, 3, 4), np.float32), "scale": np.ones(5, np.float32)})
    assert (made["y"].shape, made["total"].shape) == ((5, 3, 2), (5,))
    assert [tensor.shape for tensor in source.graph.results] == [(1, 3, 2), (1,)]


def test_outputs_that_are_an_input_or_a_constant(tmp_path: Path) -> None:
    nodes = [node("Identity", "x", "same"), node("Relu", "x", "y"), node("Add", "k k", "fixed")]
    outputs = [value("same", [1, 4]), value("fixed", [1, 2]), value("y", [1, 4])]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 4])], outputs, {"k": weights(1, 2)})
    assert names(opened(path)) == (["x"], ["same", "fixed", "y"])
    path = write(tmp_path / "n.onnx", nodes[:1], [value("x", [1, 4])], outputs[:1])
    assert names(opened(path)) == (["x"], ["same"])


def test_an_op_that_nobody_knows_is_named_with_its_node(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "y"), node("Frobnicate", "y", "z", domain="my.ops")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [value("x", [1, 4])], [value("z", [1, 4])]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(LoadError, match=r"ONNX op Frobnicate \(node '/z/Frobnicate'\) is no op of domain 'my\.ops'"):
        open_source(tmp_path / "m.onnx", LoadOptions())


def test_an_op_whose_output_is_as_large_as_values_say_is_named(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "r"), node("NonZero", "r", "places"), node("Cast", "places", "y", to=TensorProto.FLOAT)]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 4])], [value("y", None)])
    with pytest.raises(LoadError, match=r"'y' has a size .* by ONNX op NonZero \(node '/places/NonZero'\); export"):
        open_source(path, LoadOptions())
    write(path, [node("NonZero", "x", "y")], [value("x", [1, 4])], [value("y", None, INT64)])  # all of random ones
    with pytest.raises(LoadError, match="gives nothing for zeros: its size depends on the values"):
        open_source(path, LoadOptions())


def test_outputs_that_are_an_input_in_another_guise(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "x", "wide", to=TensorProto.DOUBLE),
        node("Transpose", "wide", "turned", perm=[0, 2, 1]),
        node("Cast", "turned", "same", to=TensorProto.FLOAT),
        node("Cast", "x", "whole", to=TensorProto.INT32),
    ]
    outputs = [value("same", [1, 4, 1]), value("whole", [1, 1, 4], TensorProto.INT32)]
    source = opened(write(tmp_path / "m.onnx", nodes, [value("x", [1, 1, 4])], outputs))
    assert [tensor.dtype for tensor in source.graph.results] == ["FLOAT32", "INT32"]
    path = write(
        tmp_path / "n.onnx", nodes[:1], [value("x", [1, 1, 4])], [value("wide", [1, 1, 4], TensorProto.DOUBLE)]
    )
    assert names(opened(path)) == (["x"], ["wide"])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_of_equal_extremes_the_last(tmp_path: Path, op: str) -> None:
    nodes = [node(op, "x", "y", axis=-1, keepdims=0, select_last_index=1)]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 2, 3])], [value("y", [1, 2], TensorProto.INT64)])
    x = np.array([[[2, 2, 1], [0, 5, 0]], [[1, 1, 1], [3, 2, 3]]], np.float32)
    wanted = {"ArgMax": [[1, 1], [2, 2]], "ArgMin": [[2, 2], [2, 1]]}[op]
    source = opened(path)
    assert source.run({"x": x})["y"].tolist() == wanted
    assert compare(source.graph, source.layouts, {"x": x}, source.run).equal


def test_an_input_that_nothing_uses_stays(tmp_path: Path) -> None:
    nodes = [node("Relu", "b", "y")]
    path = write(tmp_path / "m.onnx", nodes, [value("a", [1, 2]), value("b", [1, 3])], [value("y", None)])
    assert names(opened(path)) == (["a", "b"], ["y"])


def test_constants_listed_as_inputs(tmp_path: Path) -> None:
    inputs = [value("x", [1, 4]), value("w", [4, 2])]
    nodes = [node("MatMul", "x w", "y")]
    path = write(tmp_path / "m.onnx", nodes, inputs, [value("y", [1, 2])], {"w": weights(4, 2)}, opset=8, ir=3)
    assert names(opened(path)) == (["x"], ["y"])


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Cast", "m", "y", to=TensorProto.FLOAT16)]
    kind = TensorProto.FLOAT16
    constants = {"w": weights(4, 2).astype(np.float16)}
    source = opened(
        write(tmp_path / "m.onnx", nodes, [value("x", [1, 4], kind)], [value("y", [1, 2], kind)], constants)
    )
    assert source.notes == ("the model is float16; it is computed in float32",)
    assert source.graph.inputs[0].dtype == "FLOAT32"


def test_names_that_no_tool_takes(tmp_path: Path) -> None:
    nodes = [node("Conv", "/in:0 w", "a/b::c"), node("Relu", "a/b::c", "输出/0:1")]
    path = write(
        tmp_path / "m.onnx",
        nodes,
        [value("/in:0", [1, 2, 5, 5])],
        [value("输出/0:1", None)],
        {"w": weights(3, 2, 3, 3)},
    )
    assert names(opened(path)) == (["/in:0"], ["输出/0:1"])


def test_layers_are_the_models_own_inner_results(tmp_path: Path) -> None:
    source = opened(image_net(tmp_path / "m.onnx"))
    assert source.layers is not None
    feed = {"image": np.ones((1, 3, 8, 8), np.float32)}
    layers = list(source.layers(feed))
    assert [(layer.name, layer.op, layer.value.shape) for layer in layers] == [
        ("c", "Conv", (1, 4, 8, 8)),
        ("zz_map", "Relu", (1, 4, 8, 8)),
        ("p", "GlobalAveragePool", (1, 4, 1, 1)),
        ("f", "Flatten", (1, 4)),
        ("logits", "Gemm", (1, 5)),
    ]
    np.testing.assert_allclose(layers[-1].value, source.run(feed)["logits"], rtol=1e-5)


def test_a_function_of_the_model_and_one_of_onnx(tmp_path: Path) -> None:
    nodes = [node("MeanVarianceNormalization", "x", "m"), node("CastLike", "m x", "c"), node("HardSwish", "c", "y")]
    opened(write(tmp_path / "m.onnx", nodes, [value("x", [1, 3, 4, 4])], [value("y", None)]))


@pytest.mark.parametrize(
    "after",
    [
        [node("Mul", "x p", "q"), node("Mul", "q half", "y")],
        [node("Mul", "p half", "q"), node("Mul", "q x", "y")],
        [node("Mul", "half x", "q"), node("Mul", "q p", "y")],
    ],
)
def test_a_gelu_in_pieces_is_one_op(tmp_path: Path, after: list[Any]) -> None:
    nodes = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"), *after]
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    source = opened(write(tmp_path / "m.onnx", nodes, [value("x", [1, 6])], [value("y", None)], constants))
    assert [op.name for op in source.graph.main] == ["GELU"]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("Conv", {"auto_pad": "SAME_UPPER"}),
        ("Conv", {"pads": [2, 2, 2, 2], "strides": [2, 2], "dilations": [2, 2]}),
        ("ConvTranspose", {"strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("AveragePool", {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("ReduceMean", {}),
    ],
)
def test_what_a_node_leaves_out(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    inputs = "x w" if op.startswith("Conv") else "x"
    nodes = [node(op, inputs, "y", **attributes)]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 4, 7, 6])], [value("y", None)], {"w": weights(4, 4, 3, 3)})
    opened(path)


def test_samples_that_do_not_fit(tmp_path: Path) -> None:
    source = opened(image_net(tmp_path / "m.onnx"))
    for columns, message in (
        ({"picture": np.zeros((1, 3, 8, 8))}, "differ by 'image'; it takes image"),
        ({"image": np.zeros((1, 8, 8, 3))}, r"'image' are \[8, 8, 3\] each; the model takes \[3, 8, 8\]"),
        ({"image": np.zeros((0, 3, 8, 8))}, "no rows"),
    ):
        with pytest.raises(RunError, match=message):
            source.run(columns)


def one_node(path: Path, op: str, opset: int = 17, **attributes: Any) -> Path:
    return write(path, [node(op, "x", "y", **attributes)], [value("x", [1, 4])], [value("y", None)], opset=opset)


def refused(path: Path) -> str:
    with pytest.raises(LoadError) as caught:
        open_source(path, LoadOptions())
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_an_op_that_is_not_supported_is_named_with_its_node(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("CDist", ["x", "x"], ["y"], name="/far/away", domain="com.microsoft", metric="euclidean")],
        "g",
        [value("x", [3, 4])],
        [value("y", None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    assert "ONNX op CDist (node '/far/away') is not supported" in refused(path)


@pytest.mark.parametrize("op", ["Sinh", "Cosh", "Tan", "Asinh"])
def test_functions_that_tflite_has_not_are_written_out(tmp_path: Path, op: str) -> None:
    opened(one_node(tmp_path / "m.onnx", op))


def test_the_other_name_of_onnxs_own_domain(tmp_path: Path) -> None:
    model = onnx.load(one_node(tmp_path / "m.onnx", "Sinh"))
    model.opset_import[0].domain = "ai.onnx"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    opened(tmp_path / "m.onnx")


@pytest.mark.parametrize("sizes", [[1, 4], None])
def test_a_model_without_inputs(tmp_path: Path, sizes: Sequence[int] | None) -> None:
    path = write(tmp_path / "m.onnx", [node("Relu", "k", "y")], [], [value("y", sizes)], {"k": weights(1, 4)})
    assert "no inputs" in refused(path)


def test_ops_that_nobody_knows(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="ai.acme")],
        "g",
        [value("x", [1, 4])],
        [value("y", [1, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.acme", 1)]
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    assert "Frobnicate" in refused(path)
