"""onnx2tf, called here and nowhere else: out of sight, offline, and without a trace left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekd_converters.errors import LoadError
from edgekd_converters.load.onnx_blame import place, remedy
from edgekd_converters.quiet import import_tensorflow

_SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"  # it downloads this unless it lies where it runs
_ONNX_OPS = {
    **dict.fromkeys(("BatchToSpaceND", "SpaceToBatchND"), "Conv"),
    **dict.fromkeys(("MaxPool3D", "Dilation2D"), "MaxPool"),
    "AvgPool3D": "AveragePool",
}
"""TensorFlow's op → the ONNX op that it comes from, where the names differ."""


class CallError(LoadError):
    """onnx2tf gave up. ``op``: domain and name of the ONNX op at which it did, where that is known."""

    def __init__(self, message: str, op: tuple[str, str] | None = None) -> None:
        super().__init__(message)
        self.op = op


class NoSuchOpError(CallError):
    """Neither onnx2tf nor TFLite has an op for it, however the model is given to them."""


def to_tflite(
    model: onnx.ModelProto, nodes: Mapping[str, str], keep: Sequence[str] = (), *, strict: bool = True, direct: bool
) -> bytes:
    """A float32 ``.tflite`` with the model's inputs and outputs in its order.

    Args:
        model: all sizes known, plain names.
        nodes: node name → what the user knows it by.
        keep: inputs whose axes stay as they are; others of three to five axes go channels last.
        strict: try out axes until every inner result agrees with onnxruntime.
        direct: write the flatbuffer without TensorFlow, where :func:`can_write_directly`.

    Raises ``LoadError``, with the node at fault where it is known.
    """
    with _contained() as folder:
        from onnx2tf.onnx2tf import convert  # the package has a wrapper without the names of the options

        onnx.save(model, folder / "model.onnx")
        np.save(folder / _SAMPLE, np.random.default_rng(0).random((20, 128, 128, 3), np.float32), allow_pickle=False)
        options: dict[str, Any] = {"tflite_backend": "flatbuffer_direct" if direct else "tf_converter"}
        options |= {"disable_model_save": not direct, "disable_strict_mode": not strict, "enable_rnn_unroll": True}
        options |= {"keep_shape_absolutely_input_names": list(keep) or None}
        options |= {"replace_to_pseudo_operators": ["atan", "erf"]}  # TFLite has neither
        known = inspect.signature(convert).parameters
        try:
            converted = convert(
                input_onnx_file_path="model.onnx",
                output_folder_path="out",
                not_use_onnxsim=True,
                non_verbose=True,
                verbosity="error",
                **{name: value for name, value in options.items() if name in known},
            )
            return (folder / "out" / "model_float32.tflite").read_bytes() if direct else _through_tensorflow(converted)
        except (Exception, SystemExit) as error:
            raise _explained(error, model, nodes) from error


def can_write_directly() -> bool:
    """Whether this onnx2tf has a backend of its own; the older one, for Python 3.11, goes through TensorFlow."""
    return (_home() / "tflite_builder").is_dir()


def knows(op: str) -> bool:
    """Whether onnx2tf has an ONNX op of this name."""
    return (_home() / "ops" / f"{op}.py").is_file()


def _home() -> Path:
    """Where it is installed; importing it takes seconds, and TensorFlow."""
    spec = importlib.util.find_spec("onnx2tf")
    return Path(str(spec.origin)).parent if spec else Path(os.devnull)


def _through_tensorflow(model: Any) -> bytes:
    """Without onnx2tf's own way out, a SavedModel and a float16 twin, which takes ten times as long."""
    import tensorflow as tf

    def outputs(*inputs: Any) -> Any:
        made = model(list(inputs) if len(inputs) > 1 else inputs[0])
        return [tf.identity(one) for one in (made if isinstance(made, (list, tuple)) else [made])]

    signature = [  # of all sizes only those that Keras adds of its own, to scalars, are open
        tf.TensorSpec([size or 1 for size in tensor.shape], tensor.dtype, tensor.name.split(":")[0])
        for tensor in model.inputs
    ]
    function = tf.function(outputs, input_signature=signature).get_concrete_function()
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    return content


@contextlib.contextmanager
def _contained() -> Iterator[Path]:
    """A folder to work in; what onnx2tf does to the process besides its work is undone, and what it says is dropped.

    It sets an unlimited recursion depth, the random seeds, deterministic ops, warnings and environment variables.
    """
    legacy, depth, place = os.environ.get("TF_USE_LEGACY_KERAS"), sys.getrecursionlimit(), Path.cwd()
    import_tensorflow()
    seeds = random.getstate(), np.random.get_state()
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder, _silent(), warnings.catch_warnings():
        os.chdir(folder)
        try:
            importlib.import_module("onnx2tf")
            sys.setrecursionlimit(max(depth, 10_000))
            yield Path(folder)
        finally:
            os.chdir(place)
            sys.setrecursionlimit(depth)
            random.setstate(seeds[0])
            np.random.set_state(seeds[1])
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
            if legacy is not None:
                os.environ["TF_USE_LEGACY_KERAS"] = legacy
            _allow_random_ops()


def _allow_random_ops() -> None:
    """Deterministic ops are slow, and some then refuse to run."""
    from tensorflow.python.framework import config

    disable: Callable[[], None] | None = getattr(config, "disable_op_determinism", None)
    if disable is not None:
        disable()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what is written to standard output and standard error."""
    saved = [os.dup(1), os.dup(2)]
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        try:
            for number in (1, 2):
                os.dup2(sink.fileno(), number)
            yield
        finally:
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def _explained(error: BaseException, model: onnx.ModelProto, nodes: Mapping[str, str]) -> CallError:
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = " ".join(said.split())
    by_name = {node.name: node for node in model.graph.node}
    node = by_name.get(str(getattr(error, "onnx_op_name", "")))
    where, op = place(node, nodes), (node.domain, node.op_type) if node else None
    if isinstance(error, ModuleNotFoundError) and "onnx2tf.ops" in text:
        helps = remedy(node, "export the model with a lower opset or without that step")
        return NoSuchOpError(f"{where} is not supported; {helps}")
    if missing := set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)):
        made_of = {_ONNX_OPS.get(name, name) for name in missing}
        node = next((node for node in model.graph.node if node.op_type in made_of), None)
        where = place(node, nodes)
        return NoSuchOpError(
            f"TFLite has no {', '.join(sorted(missing))}, which {where} needs; export it without that step"
        )
    if isinstance(error, SystemExit):
        return CallError(f"onnx2tf gives up on {where}; try a model exported with opset 17 and fixed sizes", op)
    if " error: " in said:  # TensorFlow's converter says before and after it where the Python code lies
        text = said.split(" error: ")[-1].strip().splitlines()[0]
    return CallError(f"onnx2tf cannot convert {where}: {text[:200] or type(error).__name__}", op)
