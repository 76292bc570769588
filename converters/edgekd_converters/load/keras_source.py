"""A model object of Keras 3 or of ``tf_keras`` → graph and source: both have the same shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph
from edgekd_converters.load.columns import BATCH, Outputs, in_batches
from edgekd_converters.load.naming import unique
from edgekd_converters.load.shapes import settle
from edgekd_converters.load.source import Layer, LoadOptions, Source
from edgekd_converters.load.to_tflite import to_tflite
from edgekd_converters.observe import Columns, Feed


@dataclass(frozen=True)
class Ends:
    """``inputs``: name → (sizes, dtype's name). ``call``: tensors in their order → tensors in the order of outputs."""

    inputs: dict[str, tuple[tuple[int | None, ...], str]]
    outputs: list[str]
    call: Callable[[Sequence[Any]], list[Any]]


def ends_of(model: Any) -> Ends:
    """Names as the model's author gave them: keys where a dict goes in or out, else the layers' names."""
    if not getattr(model, "inputs", None):
        raise LoadError("the model's inputs are not known: it is a subclass; export it with model.export('FOLDER')")
    takes, gives = getattr(model, "input", None), getattr(model, "output", None)  # a Sequential of Keras 3 has neither
    names = list(takes) if isinstance(takes, dict) else unique([tensor.name for tensor in model.inputs])
    tensors = list(takes.values()) if isinstance(takes, dict) else model.inputs
    outputs = list(gives) if isinstance(gives, dict) else unique(_output_names(model))

    def call(values: Sequence[Any]) -> list[Any]:
        if isinstance(takes, dict):
            made = model(dict(zip(names, values, strict=True)), training=False)
        else:
            made = model(values[0] if len(values) == 1 else list(values), training=False)
        return [made[name] for name in outputs] if isinstance(gives, dict) else _flat(made)

    inputs = {
        name: (tuple(tensor.shape), _dtype_name(tensor.dtype)) for name, tensor in zip(names, tensors, strict=True)
    }
    return Ends(inputs, outputs, call)


def convert_keras(model: Any, *, batch: int = 1, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """A Keras model → :class:`Graph` with a fixed batch; the signature has the model's names in the model's order.

    ``shapes``: input name → all sizes, a batch of 1 included, for what the model leaves open. Raises ``LoadError``.
    """
    ends = ends_of(model)
    settled = settle({name: sizes for name, (sizes, _) in ends.inputs.items()}, shapes or {})
    inputs = {name: ((batch, *settled[name][1:]), dtype) for name, (_, dtype) in ends.inputs.items()}
    owner = model if isinstance(model, _module_class()) else [variable.value for variable in model.variables]
    return to_tflite(ends.call, inputs, ends.outputs, owner)


def keras_source(kind: str, model: Any, options: LoadOptions) -> Source:
    """``kind``: the source's format."""
    import tensorflow as tf

    ends = ends_of(model)
    dtypes = {name: dtype for name, (_, dtype) in ends.inputs.items()}
    batch = BATCH if all(sizes[0] is None for sizes, _ in ends.inputs.values()) else 1
    graph = convert_keras(model, shapes=options.shapes)
    compiled = tf.function(ends.call, reduce_retracing=True)

    def call(feed: Feed) -> Outputs:
        made = compiled([tf.constant(value) for value in feed.values()])
        return {name: value.numpy() for name, value in zip(ends.outputs, made, strict=True)}

    def run(columns: Columns) -> Outputs:
        return in_batches(call, columns, dtypes, batch)

    def layers(feed: Feed) -> Iterator[Layer]:
        values = [tf.constant(np.asarray(feed[name], dtype)) for name, dtype in dtypes.items()]
        return iter(_record(model, lambda: ends.call(values)))

    return Source(kind, graph, run, layers)


def _record(model: Any, run: Callable[[], object]) -> list[Layer]:
    """The results of the model's operations, and of those of the models in it, while ``run`` calls it eagerly."""
    found: list[Layer] = []
    hooked = list(_operations(model))
    for operation in hooked:
        operation.call = _recording(operation, operation.call, found)
    try:
        run()
    finally:
        for operation in hooked:
            del operation.call
    return found


def _recording(operation: Any, call: Callable[..., Any], found: list[Layer]) -> Callable[..., Any]:
    def recorded(*args: Any, **kwargs: Any) -> Any:
        made = call(*args, **kwargs)
        for value in _flat(made):
            if hasattr(value, "numpy"):  # else it is symbolic: the layer is within a loop
                array: npt.NDArray[Any] = value.numpy()
                found.append(Layer(operation.name, type(operation).__name__, array))
        return made

    return recorded


def _operations(model: Any) -> Iterator[Any]:
    """What a model calls one by one, without what these have inside unless they are models themselves."""
    for operation in {id(one): one for one in (*getattr(model, "operations", ()), *model.layers)}.values():
        if hasattr(operation, "layers"):
            yield from _operations(operation)
        elif type(operation).__name__ != "InputLayer":
            yield operation


def _output_names(model: Any) -> list[str]:
    return getattr(model, "output_names", None) or [model.layers[-1].name]


def _flat(made: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(made))


def _module_class() -> Any:
    """What ``tf_keras`` models are; those of Keras 3 are not, and keep TensorFlow's variables inside their own."""
    import tensorflow as tf

    return tf.Module


def _dtype_name(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))
