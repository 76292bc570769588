"""A float32 ``.tflite``: the graph as it is, with a batch of 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.columns import Outputs, in_batches
from edgekd_converters.load.source import LoadOptions, Source
from edgekd_converters.load.to_tflite import first_line
from edgekd_converters.observe import Columns, Feed
from edgekd_converters.quiet import quiet
from edgekd_converters.strides import fit_strides
from edgekd_converters.tflite_model import load_tflite


def open_source(path: Path, options: LoadOptions) -> Source:
    """The source runs on the stock interpreter, from the file as it was. Raises ``LoadError``."""
    graph = load_tflite(path, options.shapes)
    if options.signature not in (None, graph.signature.key):
        raise LoadError(f"{path}: a .tflite is read by its first signature only, which is {graph.signature.key!r}")
    original = fit_strides(read_graph(path.read_bytes()))
    try:
        interpreter = _interpreter(original, graph)
    except (RuntimeError, ValueError) as error:
        raise LoadError(f"{path}: the interpreter refuses the model: {first_line(error)}") from error
    index = {tensor.name: tensor.index for tensor in (*original.inputs, *original.outputs)}
    inputs = {name: index[tensor] for name, tensor in original.signature.inputs.items()}
    outputs = {name: index[tensor] for name, tensor in original.signature.outputs.items()}
    dtypes = {place["index"]: place["dtype"] for place in interpreter.get_input_details()}

    def call(feed: Feed) -> Outputs:
        for name, place in inputs.items():
            interpreter.set_tensor(place, feed[name])
        interpreter.reset_all_variables()  # a recurrent op would go on from the row before
        interpreter.invoke()
        return {name: np.array(interpreter.get_tensor(place)) for name, place in outputs.items()}

    def run(columns: Columns) -> Outputs:
        return in_batches(call, columns, {name: dtypes[place] for name, place in inputs.items()}, batch=1)

    return Source("tflite", graph, run)


def _interpreter(original: Graph, fixed: Graph) -> Interpreter:
    with quiet():
        interpreter = Interpreter(model_content=original.content)
        for tensor, sized in zip(original.inputs, fixed.inputs, strict=True):
            if tensor.is_dynamic:
                interpreter.resize_tensor_input(tensor.index, sized.shape)
        interpreter.allocate_tensors()
    return interpreter
