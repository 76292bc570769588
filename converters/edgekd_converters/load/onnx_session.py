"""An ONNX model as onnxruntime runs it: what the float graph must agree with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgekd_converters.errors import LoadError, RunError
from edgekd_converters.load.columns import in_batches
from edgekd_converters.load.onnx_blame import unknown_op
from edgekd_converters.load.source import Layer
from edgekd_converters.observe import Columns, Feed

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Port:
    """An input or output. ``shape``: of one run of the source.

    To the public every array has a batch axis; where the source's first axis is not one, it comes in front.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def has_batch(self) -> bool:
        return self.shape[:1] == (1,)

    @property
    def public_shape(self) -> tuple[int, ...]:
        return self.shape if self.has_batch else (1, *self.shape)


class Session:
    """One sample at a time, which is what a graph with a batch of 1 computes."""

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[Port]) -> None:
        """Raises ``LoadError`` when onnxruntime refuses the model."""
        self.model, self.inputs = model, tuple(inputs)
        self._names = [value.name for value in model.graph.output]
        self._session = _open(model)

    def once(self, arrays: Mapping[str, Array]) -> Arrays:
        """Arrays in the source's own shapes → every output in its own. Raises ``RunError``."""
        return _run(self._session, self._names, arrays)

    def run(self, columns: Columns) -> Arrays:
        """Every row, with a batch axis in what goes in and what comes out. Raises ``RunError``."""
        return in_batches(self._on_row, columns, {port.name: port.dtype for port in self.inputs}, batch=1)

    def layers(self, feed: Feed) -> Iterator[Layer]:
        """The result of every node of the main graph that is a float tensor."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        nodes = {name: node for node in model.graph.node for name in node.output if name}
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in nodes)
        results = _run(_open(model), list(nodes), self._arrays(feed))
        for name, node in nodes.items():
            value = results[name]
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                yield Layer(name, node.op_type, value)

    def _on_row(self, feed: Feed) -> Arrays:
        return {name: with_batch(value) for name, value in self.once(self._arrays(feed)).items()}

    def _arrays(self, feed: Feed) -> Arrays:
        """One row, in the source's own shapes."""
        taken = {}
        for port in self.inputs:
            column = np.asarray(feed[port.name])
            if column.shape[1:] != port.public_shape[1:]:
                raise RunError(
                    f"the samples of {port.name!r} are {list(column.shape[1:])} each; the model takes "
                    f"{list(port.public_shape[1:])}"
                )
            taken[port.name] = np.ascontiguousarray(column.reshape(port.shape), port.dtype)
        return taken


def with_batch(value: Array) -> Array:
    """One output with its batch axis of 1, as :class:`Port` has it."""
    return value if value.shape[:1] == (1,) else value[np.newaxis]


def _open(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every cause
        why = unknown_op(model, str(error)) or f"onnxruntime cannot run the model: {one_line(error)}"
        raise LoadError(why) from error


def _run(session: Any, names: Sequence[str], arrays: Mapping[str, Array]) -> Arrays:
    wanted = {value.name for value in session.get_inputs()}  # an input that nothing uses may be gone
    feed = {name: array for name, array in arrays.items() if name in wanted}
    try:
        return dict(zip(names, session.run(list(names), feed), strict=True))
    except Exception as error:
        raise RunError(f"onnxruntime cannot run the model on a sample: {one_line(error)}") from error


def one_line(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:300]
