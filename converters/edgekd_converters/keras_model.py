"""Keras 3 ``.keras`` → float32 ``.tflite``."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.quiet import import_tensorflow, quiet

_SIGNATURE = "serving_default"


def load_keras(path: Path) -> Graph:
    """Read a ``.keras`` archive and convert it with a batch of 1.

    Code stored in the archive (Lambda layers) is never run. Input and output names of the model become those of the
    signature. Raises ``LoadError``.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise LoadError(f"{path}: not a .keras archive; save the model with model.save('NAME.keras')")
    import_tensorflow()
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises ValueError, TypeError, KeyError, … depending on what is wrong
        raise LoadError(f"{path}: Keras cannot load it: {_first_line(error)}") from error
    return convert_keras(model)


def convert_keras(model: Any, *, batch: int = 1) -> Graph:
    """A Keras 3 model with known input sizes → :class:`Graph` with a fixed batch. Raises ``LoadError``."""
    import_tensorflow()
    import keras
    import tensorflow as tf

    inputs = [_input_spec(tensor, batch) for tensor in model.inputs]
    output_names = [_public_name(name) for name in model.output_names]
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder, quiet():
        archive = keras.export.ExportArchive()
        archive.track(model)

        def serve(*tensors: Any) -> dict[str, Any]:
            outputs = model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
            return dict(zip(output_names, tf.nest.flatten(outputs), strict=True))

        try:
            archive.add_endpoint(_SIGNATURE, serve, input_signature=inputs)
            archive.write_out(folder, verbose=False)
            content = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[_SIGNATURE]).convert()
        except Exception as error:
            raise LoadError(f"TensorFlow cannot convert the model: {_first_line(error)}") from error
    return read_graph(content)


def _input_spec(tensor: Any, batch: int) -> Any:
    import tensorflow as tf

    sizes = tuple(tensor.shape)[1:]
    if any(size is None for size in sizes):
        raise LoadError(f"input {tensor.name!r} has unknown sizes {list(sizes)}; build the model with fixed ones")
    return tf.TensorSpec([batch, *sizes], tensor.dtype, name=_public_name(tensor.name))


def _public_name(name: str) -> str:
    return name.split(":")[0].replace("/", "_")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
