"""Every architecture of ``keras.applications`` as a ``.keras`` file, with weights under which all of it is at work."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.observe import Columns
from edgekd_converters.quiet import import_tensorflow

SIZE = 96  # pixels; all of them allow it
CLASSES = 10
_LOGIT_GAIN = 2.0
_STATISTICS_ROWS = 32


def architectures() -> list[str]:
    """From the fewest parameters to the most, as far as names tell."""
    import_tensorflow()
    import keras

    names = [name for name in dir(keras.applications) if name[0].isupper()]
    return sorted(names, key=lambda name: (any(word in name for word in _LARGE), name))


_LARGE = ("Large", "Base", "V2L", "V2M", "B5", "B6", "B7", "152", "InceptionResNet")


def write(name: str, folder: Path, rows: int) -> tuple[Path, Columns]:
    """The model with weights of its own drawing, saved; and samples for it."""
    import_tensorflow()
    import keras

    model = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES)
    draw(model, np.random.default_rng(zlib.crc32(name.encode())))
    path = folder / f"{name}.keras"
    model.save(path)
    return path, {model.layers[0].name: images(model, rows, seed=1)}


def draw(model: Any, rng: np.random.Generator) -> None:
    """Weights that keep activations near 1 in size, whatever the depth, and leave nothing at its neutral value.

    With the weights that Keras starts from, a network of 50 layers gives the same output for every image. Batch norm's
    statistics are those of the network itself on a few images, as after training.
    """
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for variable in layer._trainable_variables:
            variable.assign(_values(rng, layer, variable))
    stated = {"BatchNormalization": "momentum", "Dropout": "rate"}
    changed = [(layer, stated[kind]) for layer in model._flatten_layers() if (kind := type(layer).__name__) in stated]
    before = [getattr(layer, name) for layer, name in changed]
    for layer, name in changed:
        setattr(layer, name, 0.0)
    model(images(model, _STATISTICS_ROWS, seed=0), training=True)
    for (layer, name), value in zip(changed, before, strict=True):
        setattr(layer, name, value)
    last = next(layer for layer in reversed(model.layers) if hasattr(layer, "kernel"))
    last.kernel.assign(_LOGIT_GAIN * last.kernel)


def images(model: Any, rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Patches of colour with noise on them, ``(rows, SIZE, SIZE, 3)``: 0 to 255 if the model rescales, else near 0."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(rows, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    pixels = patches + 0.5 * rng.normal(size=patches.shape)
    rescales = any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers)
    return np.asarray(np.clip(127.5 + 64 * pixels, 0, 255) if rescales else pixels, np.float32)


def _values(rng: np.random.Generator, layer: Any, variable: Any) -> npt.NDArray[np.float64]:
    kind, shape = variable.path.rpartition("/")[2], tuple(variable.shape)
    if kind == "gamma" or type(layer).__name__ == "LayerScale":
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return rng.normal(0, 0.3, shape)
    depthwise = kind == "depthwise_kernel" or type(layer).__name__ == "DepthwiseConv2D"
    summed = np.prod(shape[:2]) if depthwise else np.prod(shape[:-1])
    return rng.normal(0, np.sqrt(2 / summed), shape)
