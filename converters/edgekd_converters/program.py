"""A graph run in TensorFlow: many samples at once, differentiable in its inputs and its constants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import ConverterError, RunError, UnsupportedOpError, one_line
from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.observe import Columns, Feed, Observer, feeds
from edgekd_converters.ops.forward.elementwise import activate
from edgekd_converters.ops.lazy import tf
from edgekd_converters.ops.table import TABLE

Hook = Callable[[Op, list[Any]], list[Any]]
"""(op, values) → what to go on with in their place."""

_OF_ONE_SAMPLE = {"SHAPE", "RANK"}  # what they say is the same for all samples
_QUANTISED = {"INT4", "INT8", "INT16"}  # in a .tflite these are reals with a scale, which is not read here
_COMPARED, _TOLERANCE = 3, 1e-3


class Program:
    """Runs inside ``tf.function`` too, if the number of samples is known when that is traced."""

    def __init__(self, graph: Graph) -> None:
        """Raises ``UnsupportedOpError`` naming the ops that cannot run."""
        self.graph = graph
        _refuse(graph.main)
        made = {tensor.index for op in graph.main for tensor in op.outputs}
        read = {tensor for op in graph.main for tensor in op.inputs} | set(graph.outputs)
        with tf.init_scope():
            self._constants = {
                tensor.index: tf.constant(_stored(graph, tensor))
                for tensor in read - set(graph.inputs)
                if tensor.is_constant or (0 in tensor.shape and tensor.index not in made)
            }
        index_of = {tensor.name: tensor.index for tensor in graph.tensors}
        self._inputs = {name: graph.tensors[index_of[tensor]] for name, tensor in graph.signature.inputs.items()}
        self._outputs = {name: index_of[tensor] for name, tensor in graph.signature.outputs.items()}

    def run(
        self,
        feeds: Mapping[str, Any],
        constants: Mapping[int, Any] | None = None,
        before: Hook | None = None,
        after: Hook | None = None,
    ) -> dict[int, Any]:
        """All tensors by index. Raises ``RunError`` when the samples do not fit or an op fails.

        Args:
            feeds: public input name → ``(n, …)``.
            constants: tensor index → what to take instead of the stored constant.
            before: is called with every op and its inputs by slot, None where absent.
            after: is called with every op and its outputs, between its linear part and its fused activation.
        """
        # There is nothing in here for autograph to convert, and its attempt is slow.
        run = tf.autograph.experimental.do_not_convert(self._run)
        values: dict[int, Any] = run(self._fed(feeds), constants or {}, before or unchanged, after or unchanged)
        return values

    def outputs(self, values: Mapping[int, Any]) -> dict[str, Any]:
        """The outputs by their public names, from what ``run`` returned."""
        return {name: values[index] for name, index in self._outputs.items()}

    def _fed(self, feeds: Mapping[str, Any]) -> dict[int, Any]:
        if differing := set(self._inputs) ^ set(feeds):
            raise RunError(f"the samples and the model's inputs differ by {sorted(differing)[0]!r}")
        try:
            fed = {
                tensor.index: tf.convert_to_tensor(feeds[name], tensor.dtype.lower())
                for name, tensor in self._inputs.items()
            }
        except (ValueError, TypeError) as error:
            raise RunError(f"a sample is not what the model takes: {_one_line(error)}") from error
        return fed

    def _run(self, fed: dict[int, Any], constants: Mapping[int, Any], before: Hook, after: Hook) -> dict[int, Any]:
        batch = _samples(fed, self.graph.tensors)
        if batch == 1:
            fed = {i: value if self.graph.tensors[i].shape else tf.reshape(value, ()) for i, value in fed.items()}
        replaced = {index: tf.convert_to_tensor(value) for index, value in constants.items()}
        values = {**self._constants, **replaced, **fed}
        stacked = set(fed)
        for op in self.graph.main:
            varies = any(tensor.index in stacked for tensor in op.inputs)
            operands = [None if slot is None else values.get(slot.index) for slot in op.slots]
            made = after(op, _forward(op, before(op, operands), batch if varies else 1))
            values |= {tensor.index: activate(op, one) for tensor, one in zip(op.outputs, made, strict=True)}
            if varies and op.name not in _OF_ONE_SAMPLE:
                stacked |= {tensor.index for tensor in op.outputs}
        return values


def verify_program(graph: Graph, columns: Columns) -> float:
    """The greatest difference of any output from the interpreter's, relative to that output's greatest value.

    Args:
        graph: a float32 graph with a batch of 1.
        columns: two samples or more; the first three are run, at once here and one by one in the interpreter.

    Raises ``ConverterError`` when it is more than 1e-3: then samples cannot run together in this model, for it mixes
    them; or when an op has no row.
    """
    few = {name: column[:_COMPARED] for name, column in columns.items()}
    program = Program(graph)
    together = program.outputs(program.run(few))
    alone = [_interpreted(graph, sample) for sample in feeds(few)]
    worst = 0.0
    for name, value in together.items():
        expected = np.concatenate([np.atleast_1d(outputs[name]) for outputs in alone]).astype(np.float64)
        error = _difference(value.numpy().astype(np.float64), expected)
        if not error <= _TOLERANCE:
            raise ConverterError(f"output {name!r} is off by {error:.1e} when {len(alone)} samples run together")
        worst = max(worst, error)
    return worst


def _refuse(ops: Sequence[Op]) -> None:
    if unknown := sorted({op.name for op in ops if op.name not in TABLE}):
        raise UnsupportedOpError(f"no way is known to run these ops in TensorFlow: {', '.join(unknown)}")
    for op in ops:
        for tensor in (*op.inputs, *op.outputs):
            if tensor.dtype in _QUANTISED:
                raise UnsupportedOpError(f"{op}: tensor {tensor.name!r} is quantised; a float32 model is needed")


def _stored(graph: Graph, tensor: Tensor) -> npt.NDArray[Any]:
    """A constant's value. One without any values has no data either, by which the file would tell that it is one."""
    return graph.constant(tensor) if tensor.is_constant else np.zeros(tensor.shape, tensor.dtype.lower())


def _samples(fed: Mapping[int, Any], tensors: Sequence[Tensor]) -> int:
    """How many samples are stacked in the values that are fed."""
    counts = set()
    for index, value in fed.items():
        shape, given = tensors[index].shape or (1,), value.shape.as_list() or [1]
        rows = max(shape[0], 1)
        whole = len(given) == len(shape) and given[0] is not None and given[0] % rows == 0
        if not whole or any(size not in (-1, other) for size, other in zip(shape[1:], given[1:], strict=True)):
            raise RunError(f"samples of shape {given} do not fit the input {tensors[index].name!r} of {list(shape)}")
        counts.add(given[0] // rows)
    if len(counts) > 1:
        raise RunError(f"the inputs disagree on the number of samples: {sorted(counts)}")
    return int(counts.pop()) if counts else 1


def unchanged(op: Op, values: list[Any]) -> list[Any]:
    return values


def _forward(op: Op, operands: list[Any], batch: int) -> list[Any]:
    """The op's outputs. Integers that only constants lead to are computed at once, for they may state sizes."""
    whole = all(output.dtype in ("INT32", "INT64") for output in op.outputs)
    early = whole and all(
        operand is None or (tf.is_tensor(operand) and hasattr(operand, "numpy")) for operand in operands
    )
    try:
        with tf.init_scope() if early else contextlib.nullcontext():
            return TABLE[op.name].forward(op, operands, batch)
    except ConverterError:
        raise
    except (tf.errors.OpError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{op} cannot run: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _interpreted(graph: Graph, sample: Feed) -> dict[str, npt.NDArray[Any]]:
    """One sample's outputs, from an interpreter of its own since a recurrent op keeps its state in it."""
    observer = Observer(graph)
    observer.run(sample)
    return observer.outputs()


def _difference(value: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    if value.shape != expected.shape:
        return float("inf")
    error, scale = np.abs(value - expected).max(initial=0.0), np.abs(expected).max(initial=0.0)
    return float(error / scale) if error else 0.0
