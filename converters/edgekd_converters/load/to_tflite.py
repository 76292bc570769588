"""A TensorFlow function → float32 graph: the one place that calls ``TFLiteConverter``."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.naming import inner_names, rename
from edgekd_converters.quiet import import_tensorflow, quiet
from edgekd_converters.strides import fit_strides

SIGNATURE = "serving_default"
_FOREIGN = re.compile(r"'(tf\.\w+)' op is neither a custom op nor a flex op|^\s+tf\.(\w+)\(", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[\d*m")


def to_tflite(
    call: Callable[[Sequence[Any]], Sequence[Any]],
    inputs: Mapping[str, tuple[tuple[int, ...], Any]],
    outputs: Sequence[str],
    owner: Any,
) -> Graph:
    """``call``: tensors in the order of ``inputs`` → tensors in the order of ``outputs``.

    Args:
        inputs: public name → (shape with the batch, TensorFlow dtype).
        owner: the trackable object that holds the variables ``call`` uses.

    Raises ``LoadError``, with the names of ops that TFLite does not have.
    """
    import_tensorflow()
    import tensorflow as tf

    names = inner_names("input", list(inputs)), inner_names("output", outputs)
    specs = [
        tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in zip(names[0], inputs.values(), strict=True)
    ]

    def serve(*tensors: Any) -> dict[str, Any]:
        return dict(zip(names[1], map(tf.identity, call(tensors)), strict=True))

    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder, quiet():
        module = tf.Module()
        module.owner = owner
        try:
            signature = tf.function(serve, input_signature=specs)
            tf.saved_model.save(module, folder, signatures={SIGNATURE: signature})
            content = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE]).convert()
        except Exception as error:  # what the tracer, the saver and the converter's C++ come up with
            raise LoadError(f"TensorFlow cannot convert the model: {_reason(error)}") from error
    return rename(fit_strides(read_graph(content)), list(inputs), outputs)


def first_line(error: Exception) -> str:
    """What an exception says first, or the reason that it wraps or only announces there."""
    text = _COLOURS.sub("", str(error)).rpartition("Exception encountered: ")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if lines[0] == "in user code:":  # which a stack follows
        return first_line(RuntimeError("\n".join(lines[_last_frame(lines) + 2 :] or lines[-1:])))
    announces = lines[0].endswith(":") or "Exception encountered" in lines[0]
    return " ".join(lines[: 2 if announces else 1])[:300]


def _last_frame(lines: list[str]) -> int:
    """Of a stack each frame is two lines, the place and the code."""
    return max((i for i, line in enumerate(lines) if line.startswith("File ")), default=0)


def _reason(error: Exception) -> str:
    found = sorted({f"tf.{(a or b).removeprefix('tf.')}" for a, b in _FOREIGN.findall(str(error))})
    if not found:
        return first_line(error)
    return f"TFLite has no op for {', '.join(found)}; replace {'it' if len(found) == 1 else 'them'} in the model"
