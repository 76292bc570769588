"""The models that the ``onnx`` package tests backends with, and the answers that it has for them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from edgekd_converters.observe import Columns

DATA = Path(onnx.__file__).parent / "backend/test/data"
_LOGITS = 4.0  # their size: one answer out of a thousand stands out, and the softmax is not saturated
_LAYERS = ("Conv", "Gemm")
_SIZE = 224


def names(folder: str) -> list[str]:
    """``folder``: of ``DATA``. Smaller files first in ``light``, whose time goes with their depth."""
    if folder == "light":
        return [path.stem for path in sorted((DATA / folder).glob("*.onnx"), key=lambda path: path.stat().st_size)]
    return [path.parent.name for path in sorted((DATA / folder).glob("*/model.onnx"))]


def model_path(folder: str, name: str) -> Path:
    return DATA / folder / (f"{name}.onnx" if folder == "light" else f"{name}/model.onnx")


def published(folder: str, name: str) -> tuple[Columns, Columns]:
    """The package's own inputs and the outputs that it wants for them, one row each.

    As in loaded models, floats are float32, and an array whose first axis is not a batch of 1 has one put in front.
    """
    model = onnx.load(model_path(folder, name))
    known = {tensor.name for tensor in model.graph.initializer}
    ends = [value for value in model.graph.input if value.name not in known], list(model.graph.output)
    if folder == "light":
        shape = [dim.dim_value for dim in ends[0][0].type.tensor_type.shape.dim]
        ramp = np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)
        wanted = numpy_helper.to_array(onnx.load_tensor(str(DATA / folder / f"{name}_output_0.pb")))
        return {ends[0][0].name: ramp.astype(np.float32)}, {ends[1][0].name: _row(wanted)}
    stored = DATA / folder / name / "test_data_set_0"
    given, wanted_by_name = (
        {
            value.name: _row(numpy_helper.to_array(onnx.load_tensor(str(stored / f"{kind}_{i}.pb"))))
            for i, value in enumerate(values)
        }
        for kind, values in zip(("input", "output"), ends, strict=True)
    )
    return given, wanted_by_name


def images(rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Patches of colour with noise on them, ``(rows, 3, 224, 224)``, for the networks of ``light``."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(rows, 3, 4, 4)).repeat(_SIZE // 4, 2).repeat(_SIZE // 4, 3)
    return np.asarray(patches + 0.5 * rng.normal(size=patches.shape), np.float32)


def varied(row: Columns, rows: int) -> Columns:
    """Rows for calibration around the one that there is: floats scaled, all else as it is. Some hold absurd numbers."""
    factors = np.linspace(1, 0.7, rows)

    def column(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        many = np.repeat(value, rows, 0)
        if value.dtype.kind != "f":
            return many
        return np.asarray(
            np.clip(np.nan_to_num(many), -100, 100) * factors.reshape(rows, *[1] * (value.ndim - 1)), value.dtype
        )

    return {name: column(value) for name, value in row.items()}


def write_drawn(name: str, folder: Path) -> Path:
    """A network of ``light`` with weights drawn at random instead of 0.02 everywhere, by which all channels are alike.

    Batch norm's statistics are the network's own on one image.
    """
    model = onnx.load(model_path("light", name))
    graph, rng = model.graph, np.random.default_rng(zlib.crc32(name.encode()))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fillers = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    shapes = {node.output[0]: tuple(map(int, stored[node.input[0]])) for node in fillers}
    shapes |= {name: value.shape for name, value in stored.items() if value.dtype == np.float32}  # small ones are real
    kept = [node for node in graph.node if node not in fillers], [t for t in graph.initializer if t.name not in shapes]
    drawn = [numpy_helper.from_array(value, name) for name, value in _drawn(graph, shapes, rng).items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept[0])
    graph.initializer.extend([*kept[1], *drawn])
    _settle(model, images(1, seed=0))
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def input_name(path: Path) -> str:
    """Of a network of ``light``, which has one image for an input."""
    graph = onnx.load(path, load_external_data=False).graph
    (name,) = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    return str(name)


def _drawn(
    graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, npt.NDArray[np.float32]]:
    """Constant → values that keep activations near 1 in size."""
    values: dict[str, npt.NDArray[np.float64]] = {}
    reshaped = _reshaped(graph)
    for node in graph.node:
        if node.op_type == "Reshape":
            continue
        for position, name in enumerate(reshaped.get(name, name) for name in node.input):
            if name not in shapes or name in values:
                continue
            shape = shapes[name]
            if len(shape) > 1 and node.op_type in _LAYERS:
                transposed = any(one.name == "transB" and one.i for one in node.attribute)
                summed = np.prod(shape[1:]) if node.op_type == "Conv" else shape[-1 if transposed else -2]
                values[name] = rng.normal(0, np.sqrt(2 / summed), shape)
            elif node.op_type == "BatchNormalization" and position in (1, 4):
                values[name] = rng.uniform(0.5, 1.5, shape)
            else:
                values[name] = rng.normal(0, 0.3, shape)
    rest = {name: rng.uniform(0.5, 1.5, shape) for name, shape in shapes.items() if name not in values}
    return {name: np.asarray(value, np.float32) for name, value in {**values, **rest}.items()}


def _reshaped(graph: onnx.GraphProto) -> dict[str, str]:
    """What a Reshape makes → what it is made of."""
    return {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}


def _settle(model: onnx.ModelProto, image: npt.NDArray[np.float32]) -> None:
    """Batch norm's statistics and the size of the logits, from one run.

    It is done on a copy whose batch norms take their statistics from the one image that they see.
    """
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    last = [node for node in model.graph.node if node.op_type in _LAYERS][-1]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for node in shown.graph.node:
        if node.op_type == "BatchNormalization":
            node.op_type = "InstanceNormalization"
            del node.input[3:]
            kept = [one for one in node.attribute if one.name == "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
    gone = {name for node in norms for name in node.input[3:]}
    for values in (shown.graph.input, shown.graph.initializer):
        rest = [one for one in values if one.name not in gone]
        del values[:]
        values.extend(rest)
    wanted = [*dict.fromkeys(node.input[0] for node in norms), last.output[0]]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    maps = dict(zip(wanted, session.run(wanted, {session.get_inputs()[0].name: image}), strict=True))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    settled: dict[str, npt.NDArray[Any]] = {}
    for node in norms:
        seen = maps[node.input[0]]
        settled |= {node.input[3]: seen.mean((0, 2, 3)), node.input[4]: seen.var((0, 2, 3)) + 1e-3}
    logits = maps[last.output[0]]
    factor = _LOGITS / logits.reshape(*logits.shape[:2], -1).mean(2).std()
    scaled = [_reshaped(model.graph).get(name, name) for name in last.input[1:]]
    settled |= {name: factor * numpy_helper.to_array(stored[name]) for name in scaled}
    for name, value in settled.items():
        stored[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def _row(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """With a batch axis, and no other floats than float32."""
    value = value.astype(np.float32) if value.dtype.kind == "f" else value
    return value if value.shape[:1] == (1,) else value[np.newaxis]
