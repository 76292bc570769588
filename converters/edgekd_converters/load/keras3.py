"""Keras 3's ``.keras`` archives (and those of Keras 2.13 to 2.15, through ``tf_keras``)."""

from __future__ import annotations

import importlib
import math
import tempfile
from pathlib import Path
from typing import Any

from edgekd_converters.errors import LoadError
from edgekd_converters.load.keras_files import Archive, read_archive, require_no_code, require_weights_for
from edgekd_converters.load.keras_source import keras_source
from edgekd_converters.load.source import LoadOptions, Source
from edgekd_converters.load.to_tflite import first_line
from edgekd_converters.quiet import import_tensorflow, quiet


def open_source(path: Path, options: LoadOptions) -> Source:
    """Raises ``LoadError``."""
    return keras_source("keras", load_archive(path, trust=options.trust), options)


def load_archive(path: Path, *, trust: bool = False) -> Any:
    """The model object. Code in the archive runs only with ``trust``. Raises ``LoadError``."""
    archive = read_archive(path)
    if not trust:
        require_no_code(path, archive.config)
    import_tensorflow()
    library = importlib.import_module("tf_keras" if archive.version.startswith("2.") else "keras")
    if library.__name__ == "keras" and not trust:
        require_weights_for(path, _declared_values(archive), archive.weight_bytes)
    return load_with(library, path, ".keras", trust=trust)


def load_with(library: Any, path: Path, suffix: str, *, trust: bool) -> Any:
    """``keras`` or ``tf_keras`` on a file of any name: both go by its suffix, and may write beside it."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder, quiet():
        link = Path(folder, "model").with_suffix(suffix)
        link.symlink_to(path.resolve())
        try:
            return library.models.load_model(str(link), compile=False, safe_mode=not trust)
        except Exception as error:  # Keras raises ValueError, TypeError, KeyError, … depending on what is wrong
            raise LoadError(f"{path}: {library.__name__} cannot load it: {first_line(error)}") from error


def _declared_values(archive: Archive) -> int:
    """How many values the layers want, found without making room for any; 0 where it cannot be told.

    A few bytes of config can ask for terabytes, which Keras would begin to fill.
    """
    import keras

    try:
        with keras.StatelessScope(initialize_variables=False), quiet():
            model = keras.saving.deserialize_keras_object({**archive.config, "compile_config": None}, safe_mode=True)
        return sum(math.prod(variable.shape) for variable in model.variables)
    except Exception:  # it will be raised, with its reason, when the model is loaded
        return 0
    finally:
        keras.utils.clear_session()
