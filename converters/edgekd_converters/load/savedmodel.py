"""SavedModel folders: Keras 2 or 3 exports and plain functions, by one of their signatures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import LoadError
from edgekd_converters.load.columns import BATCH, Outputs, in_batches
from edgekd_converters.load.savedmodel_file import read_graphs
from edgekd_converters.load.shapes import settle
from edgekd_converters.load.source import Layer, LoadOptions, Source
from edgekd_converters.load.to_tflite import SIGNATURE, first_line, to_tflite
from edgekd_converters.observe import Columns, Feed
from edgekd_converters.quiet import quiet

_NO_RESULT = ("Placeholder", "Identity", "IdentityN", "Fill", "While", "StatelessWhile")  # loops give weights back too
_UNKNOWN_OP = re.compile(r"Op type not registered '(\w+)'")


def open_source(path: Path, options: LoadOptions) -> Source:
    """Loading runs no Python, and none of the ops that reach out of the model. Raises ``LoadError``."""
    graphs = read_graphs(path)
    key = _choose(path, graphs.signatures, options.signature)
    graphs.require_no_python(key)
    if not options.trust:
        graphs.require_no_outside()
    loaded = _load(path)
    specs = {spec.name: spec for spec in loaded.signatures[key].structured_input_signature[1].values()}
    specs = {name: specs[name] for name in sorted(specs, key=_natural)}  # the file keeps no order
    outputs = sorted(loaded.signatures[key].structured_outputs, key=_natural)
    _require_numbers(path, specs)
    declared = {name: None if spec.shape.rank is None else spec.shape.as_list() for name, spec in specs.items()}
    inputs = {name: (sizes, specs[name].dtype) for name, sizes in settle(declared, options.shapes).items()}
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}
    batch = BATCH if all(sizes is None or sizes[0] is None for sizes in declared.values()) else 1

    def call(tensors: Sequence[Any]) -> list[Any]:
        made = loaded.signatures[key](**dict(zip(specs, tensors, strict=True)))
        return [made[name] for name in outputs]

    def on_numbers(feed: Feed) -> Outputs:
        import tensorflow as tf

        made = call([tf.constant(feed[name]) for name in specs])
        return {name: value.numpy() for name, value in zip(outputs, made, strict=True)}

    def run(columns: Columns) -> Outputs:
        return in_batches(on_numbers, columns, dtypes, batch)

    def layers(feed: Feed) -> Iterator[Layer]:
        return _inner_results(call, [np.asarray(feed[name], dtype) for name, dtype in dtypes.items()])

    return Source("savedmodel", to_tflite(call, inputs, outputs, loaded), run, layers)


def _natural(name: str) -> list[tuple[int, str]]:
    """``output_2`` before ``output_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _require_numbers(path: Path, specs: Mapping[str, Any]) -> None:
    for name, spec in specs.items():
        if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
            raise LoadError(f"{path}: input {name!r} is of type {spec.dtype.name}; export the model behind that step")


def _load(path: Path) -> Any:
    import tensorflow as tf

    try:
        with quiet():
            return tf.saved_model.load(str(path))
    except Exception as error:  # what TensorFlow's reader, its C++ and protobuf come up with
        if unknown := _UNKNOWN_OP.search(str(error)):
            raise LoadError(f"{path}: it has the custom op {unknown[1]!r}, which TensorFlow does not know") from error
        raise LoadError(f"{path}: TensorFlow cannot load it: {first_line(error)}") from error


def _choose(path: Path, keys: list[str], wanted: str | None) -> str:
    if not keys:
        raise LoadError(
            f"{path}: it has no signature, so its inputs are not known; save it with "
            "tf.saved_model.save(model, FOLDER, signatures=model.FUNCTION), or a Keras model with model.export(FOLDER)"
        )
    having = f"it has {', '.join(sorted(keys))}"
    if wanted is not None and wanted not in keys:
        raise LoadError(f"{path}: --signature {wanted}: there is no such signature: {having}")
    if wanted is None and len(keys) > 1 and SIGNATURE not in keys:
        raise LoadError(f"{path}: several signatures; say which with --signature: {having}")
    return wanted or (SIGNATURE if SIGNATURE in keys else keys[0])


def _inner_results(call: Callable[[Sequence[Any]], list[Any]], row: Sequence[npt.NDArray[Any]]) -> Iterator[Layer]:
    """The real-valued results, on one row, of every op that depends on it, those within called functions included."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = [tf.TensorSpec(value.shape, value.dtype) for value in row]
    function = tf.function(lambda *tensors: call(tensors), input_signature=specs).get_concrete_function()
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    given = {tensor.op for tensor in frozen.inputs}
    for op in frozen.graph.get_operations():  # in an order in which they can run
        if any(tensor.op in given for tensor in op.inputs):
            given.add(op)
    ops = [op for op in frozen.graph.get_operations() if op in given and op.type not in _NO_RESULT]
    wanted = [tensor for op in ops for tensor in op.outputs if tensor.dtype.is_floating]
    values = frozen.prune(frozen.inputs, wanted)(*map(tf.constant, row))
    return (
        Layer(tensor.op.name.replace("StatefulPartitionedCall/", ""), tensor.op.type, value.numpy())
        for tensor, value in zip(wanted, values, strict=True)
    )
