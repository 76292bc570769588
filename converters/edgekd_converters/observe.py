"""A graph whose every tensor can be read after a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekd_converters.errors import RunError, one_line
from edgekd_converters.graph import Graph
from edgekd_converters.quiet import quiet

Feed = Mapping[str, npt.NDArray[Any]]
"""Public input name → array with the batch axis."""

Columns = Mapping[str, npt.NDArray[Any]]
"""Public input name → ``(n, …)``: n samples, one column for each input."""


def feeds(columns: Columns, rows: Iterable[int] | None = None) -> Iterator[Feed]:
    """One sample at a time, with a batch axis of 1; all of them, or those of the ``rows``."""
    chosen = range(len(next(iter(columns.values())))) if rows is None else rows
    return ({name: column[i : i + 1] for name, column in columns.items()} for i in chosen)


class Observer:
    """Runs a graph on the reference kernels, which keep their intermediate tensors."""

    def __init__(self, graph: Graph) -> None:
        """Raises ``RunError`` when the interpreter refuses the model."""
        self.graph = graph
        try:
            with quiet():  # it warns that keeping all tensors is for debugging, which this is
                self._interpreter = Interpreter(
                    model_content=graph.content,
                    experimental_preserve_all_tensors=True,
                    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the interpreter refuses the model: {one_line(error)}") from error
        index = {tensor.name: tensor.index for tensor in graph.tensors}
        self._inputs = {name: index[tensor] for name, tensor in graph.signature.inputs.items()}
        self._outputs = {name: index[tensor] for name, tensor in graph.signature.outputs.items()}
        details = self._interpreter.get_tensor_details()
        self._quantization = {int(detail["index"]): detail["quantization_parameters"] for detail in details}

    def run(self, feed: Feed) -> None:
        """Raises ``RunError`` when the sample does not fit the model."""
        if missing := set(self._inputs) ^ set(feed):
            raise RunError(f"the sample and the model's inputs differ by {sorted(missing)[0]!r}")
        try:
            for name, index in self._inputs.items():
                self._interpreter.set_tensor(index, feed[name])
            self._interpreter.reset_all_variables()  # a recurrent op would go on from the sample before
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the model cannot run on a sample: {one_line(error)}") from error

    def read(self, index: int) -> npt.NDArray[Any]:
        """The tensor as it is stored."""
        stored: npt.NDArray[Any] = self._interpreter.get_tensor(index)
        return stored

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs by their public names, as they are stored."""
        return {name: self.read(index) for name, index in self._outputs.items()}

    def read_real(self, index: int) -> npt.NDArray[np.float64]:
        """The tensor dequantised, if it is quantised at all."""
        values: npt.NDArray[np.float64] = self.read(index).astype(np.float64)
        parameters = self._quantization[index]
        scales = parameters["scales"]
        if not scales.size:
            return values
        zero_points = np.broadcast_to(parameters["zero_points"], scales.shape)  # one may serve many scales
        shape = [1] * values.ndim
        if scales.size > 1:  # one per slice along this axis
            shape[parameters["quantized_dimension"]] = scales.size
        real: npt.NDArray[np.float64] = (values - zero_points.reshape(shape)) * scales.reshape(shape)
        return real
