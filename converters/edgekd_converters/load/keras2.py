"""Keras ``.h5`` files: those of Keras 1 and 2 through ``tf_keras``, which knows their old ways."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd_converters.errors import LoadError
from edgekd_converters.load.keras3 import load_with
from edgekd_converters.load.keras_files import Config, check_hdf5, parse_config, require_no_code, require_weights_for
from edgekd_converters.load.keras_source import keras_source
from edgekd_converters.load.source import LoadOptions, Source
from edgekd_converters.quiet import import_tensorflow, quiet


@dataclass(frozen=True)
class _File:
    """``version``: of the Keras that wrote it. ``weight_bytes``: all arrays together."""

    config: Config
    version: str
    weight_bytes: int


def open_source(path: Path, options: LoadOptions) -> Source:
    """Code in the file, such as the bytecode of a Lambda, runs only when trusted. Raises ``LoadError``."""
    file = _read(path)
    if not options.trust:
        require_no_code(path, file.config)
    import_tensorflow()
    library = importlib.import_module("keras" if file.version.startswith("3.") else "tf_keras")
    if library.__name__ == "tf_keras" and not options.trust:
        require_weights_for(path, _declared_values(library, file.config), file.weight_bytes)
    return keras_source("h5", load_with(library, path, ".h5", trust=options.trust), options)


def _read(path: Path) -> _File:
    weight_bytes = check_hdf5(path, path)
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "r") as file:
        config, version = (_text(file.attrs.get(name)) for name in ("model_config", "keras_version"))
    if not config:
        raise LoadError(
            f"{path}: holds weights without a model; save the whole with model.save('NAME.keras'), not save_weights"
        )
    return _File(parse_config(path, config), version, weight_bytes)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _declared_values(library: Any, config: Config) -> int:
    """How many values the layers want, found in a TensorFlow graph, which makes room for none; 0 if unknown."""
    import tensorflow as tf

    try:
        with tf.Graph().as_default(), quiet():
            model = library.models.model_from_config(config)
            return sum(math.prod(variable.shape.as_list()) for variable in model.weights)
    except Exception:  # it will be raised, with its reason, when the model is loaded
        return 0
