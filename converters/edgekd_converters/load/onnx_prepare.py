"""An ONNX model as onnxruntime, and then onnx2tf, can take it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnxsim

from edgekd_converters.errors import ConverterError, LoadError, RunError
from edgekd_converters.load.equivalence import excess
from edgekd_converters.load.onnx_blame import sized_by_values
from edgekd_converters.load.onnx_edit import as_float32, copied, drop_initialised_inputs, with_shapes
from edgekd_converters.load.onnx_file import graphs, opset_of
from edgekd_converters.load.onnx_session import Array, Arrays, Port, Session
from edgekd_converters.quiet import quiet

_IR = range(4, 11)
"""Older ones list constants as inputs; newer ones some tools refuse, though they differ in types alone."""
COMPOSITE = {
    *("Attention", "LayerNormalization", "GroupNormalization", "RMSNormalization", "MeanVarianceNormalization"),
    *("RotaryEmbedding", "CenterCropPad", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Gelu", "Mish"),
}
"""Ops that ONNX itself defines by several others."""
MODERN_OPSET = 13
"""Converters read the attributes and defaults of older ones wrongly here and there."""
_OPSETS = (7, 22)
"""What onnxruntime is sure to know."""
_CHANNELS_FIRST = {
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool"),
    *("GlobalLpPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace"),
    *("SpaceToDepth", "Resize", "Upsample", "GridSample", "RoiAlign", "MaxRoiPool", "DeformConv", "QLinearConv"),
    *("ConvInteger", "FusedConv", "MaxUnpool", "Col2Im", "PRelu"),
}
_TURNING = {
    *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "GatherND", "MatMul", "Gemm", "Einsum"),
    *("Shape", "Size", "LSTM", "GRU", "RNN", "LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax"),
}

_MOVING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"}
"""Ops whose numbers are those of their first input."""


def normalised(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The same function in float32 and a version that the tools know, and what had to be said of it."""
    model, notes = copied(model), []
    drop_initialised_inputs(model)
    if floats := as_float32(model):
        notes.append(f"the model is {' and '.join(sorted(floats))}; it is computed in float32")
    for value in model.graph.output:
        if not value.type.HasField("tensor_type") and value.type.WhichOneof("value"):
            raise LoadError(f"output {value.name!r} is not a tensor; export the model with plain tensors as outputs")
    model.ir_version = min(max(model.ir_version, _IR[0]), _IR[-1])
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if opset > newest:
        raise LoadError(f"the model has opset {opset}; at most {newest} is known here, so export it with opset 17")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model, notes


def of_opset(model: onnx.ModelProto, oldest: int, newest: int | None = None) -> onnx.ModelProto:
    """The model in an opset no older and no newer, where ONNX knows how; otherwise as it is."""
    opset = opset_of(model)
    wanted = min(max(opset, oldest), newest or max(opset, oldest))
    if wanted == opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, wanted)
    except Exception:  # it has no rule for every op
        return model


def open_session(model: onnx.ModelProto, inputs: Sequence[Port]) -> Session:
    """The model for these inputs. Raises ``LoadError`` when a fixed batch shall become 1 and the rows are not apart."""
    session = _working_session(model, inputs)
    fixed = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    rows = {fixed[port.name][0].dim_value for port in inputs if port.shape and fixed[port.name]}
    if len(rows) == 1 and (count := rows.pop()) > 1 and all(port.has_batch for port in inputs):
        many = [Port(port.name, port.dtype, (count, *port.shape[1:])) for port in inputs]
        if not _apart(_working_session(model, many), session, count):
            raise LoadError(
                f"the model has a fixed batch of {count}, whose rows depend on each other; export it with 1"
            )
    return session


def _apart(whole: Session, single: Session, rows: int) -> bool:
    """Whether a batch gives for every row what the row alone gives."""
    given, wanted = samples(whole, 1)[0]
    made = [single.once({name: array[i : i + 1] for name, array in given.items()}) for i in range(rows)]
    joined = {name: np.concatenate([np.atleast_1d(one[name]) for one in made]) for name in wanted}
    return all(joined[name].shape == value.shape and excess(value, joined[name]) <= 1 for name, value in wanted.items())


def _working_session(model: onnx.ModelProto, inputs: Sequence[Port]) -> Session:
    """As it is, or in an opset that onnxruntime is made for."""
    shapes = {port.name: port.shape for port in inputs}
    failure: ConverterError | None = None
    for form in (of_opset(model, _OPSETS[0], _OPSETS[1]), model):
        try:
            session = Session(with_shapes(form, shapes), inputs)
            samples(session, 1)
        except ConverterError as error:
            failure = failure or error
        else:
            return session
    raise failure or LoadError("onnxruntime cannot run the model")


def samples(session: Session, count: int = 4) -> list[tuple[Arrays, Arrays]]:
    """Random inputs and the source's outputs, in its own shapes. Raises ``LoadError`` for outputs of no fixed size."""
    random = np.random.default_rng(0)
    made: list[tuple[Arrays, Arrays]] = []
    for number in range(count):
        given, outputs = _sample(session, random, number)
        for name, value in outputs.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
                raise LoadError(f"output {name!r} is not a tensor of numbers; export the model without that step")
            if not value.size or (made and made[0][1][name].shape != value.shape):
                raise LoadError(sized_by_values(session.model, name))
        made.append((given, outputs))
    return made


def _sample(session: Session, random: np.random.Generator, number: int) -> tuple[Arrays, Arrays]:
    given = {port.name: _random(port, random, number, 5) for port in session.inputs}
    try:
        return given, session.once(given)
    except RunError:
        given = {port.name: _random(port, random, number, 2) for port in session.inputs}  # the smallest of tables
        return given, session.once(given)


def _random(port: Port, random: np.random.Generator, number: int, limit: int) -> Array:
    if port.dtype.kind != "f":
        return random.integers(0, limit, port.shape).astype(port.dtype)
    if number % 2:
        return np.asarray(random.uniform(0, 2, port.shape), port.dtype)
    return np.asarray(random.standard_normal(port.shape) * (1 + number), port.dtype)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """What depends on sizes alone is computed, and nodes of no effect leave; None where onnxsim fails."""
    try:
        with quiet():
            made, _ = onnxsim.simplify(model)
    except Exception:  # it raises whatever its passes and onnxruntime do
        return None
    return cast(onnx.ModelProto, made)


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the sizes of inner results, as far as ONNX can tell them."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return model


@dataclass(frozen=True)
class Trivial:
    """Outputs that no converter is needed for. ``passed``: output → the input that it is."""

    constant: frozenset[str]
    passed: dict[str, str]


def find_trivial(model: onnx.ModelProto, checks: Sequence[tuple[Arrays, Arrays]]) -> Trivial:
    """``checks``: see :func:`samples`."""
    inputs = {value.name for value in model.graph.input}
    fed, same = set(inputs), {name: name for name in inputs}
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    for node in model.graph.node:
        if _only_moves(node, fed, types) and node.input[0] in same:
            same[node.output[0]] = same[node.input[0]]
        if fed & {*node.input, *_captured(node)}:
            fed |= set(node.output)
    names = [value.name for value in model.graph.output]
    passed = {name: same[name] for name in names if name in same and _are_equal(same[name], name, checks)}
    return Trivial(frozenset(set(names) - fed), passed)


def _only_moves(node: onnx.NodeProto, fed: Set[str], types: Mapping[str, int]) -> bool:
    """Whether it makes of its first input the same numbers of the same type, in another form if in any."""
    if node.op_type in ("Max", "Min", "Sum", "Mean", "Concat"):
        return len(node.input) == 1
    if node.op_type == "Dropout":
        return len(node.input) < 3
    if node.op_type in ("Cast", "CastLike"):
        return types.get(node.input[0], 0) == types.get(node.output[0], -1)
    return node.op_type in _MOVING and not fed & set(node.input[1:])


def _are_equal(given: str, made: str, checks: Sequence[tuple[Arrays, Arrays]]) -> bool:
    """Whether nothing is left of the moving: the form is the same too."""
    pairs = [(inputs[given], outputs[made]) for inputs, outputs in checks]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def _captured(node: onnx.NodeProto) -> Iterable[str]:
    """What the graphs inside a node take from outside."""
    inner = onnx.ModelProto()
    inner.graph.node.add().CopyFrom(node)
    return (name for graph in graphs(inner) for one in graph.node for name in one.input) if node.attribute else ()


def kept_as_they_are(model: onnx.ModelProto) -> list[str]:
    """Inputs of three to five axes whose second one is not the channels: nothing on their way treats it so."""
    return [
        value.name
        for value in model.graph.input
        if 3 <= len(value.type.tensor_type.shape.dim) <= 5 and not _meets_channels_first(model, value.name)
    ]


def _meets_channels_first(model: onnx.ModelProto, name: str) -> bool:
    reached = {name}
    for node in model.graph.node:
        if not reached & set(node.input):
            continue
        if node.op_type in _CHANNELS_FIRST:
            return True
        if node.op_type not in _TURNING:
            reached |= set(node.output)
    return False
