"""Every architecture that pruning is tested on, as a tiny graph with random weights."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.converters import zoo_images as images
from tests.converters import zoo_sequences as sequences

from edgekd_converters.graph import Graph
from edgekd_converters.load.keras_source import convert_keras

ZOO: dict[str, Callable[[], Any]] = {
    build.__name__: build
    for build in (
        images.mobilenet_v1,
        images.mobilenet_v2,
        images.mobilenet_v3,
        images.efficientnet_lite,
        images.resnet,
        images.resnet_padded,
        images.resnet_bottleneck,
        images.resnext,
        images.densenet,
        images.shufflenet_v1,
        images.shufflenet_v2,
        images.squeezenet,
        images.inception,
        images.unet_resize,
        images.unet_nearest,
        images.unet_transposed,
        images.ds_cnn,
        images.conv_autoencoder,
        images.multi_input_output,
        sequences.dense_autoencoder,
        sequences.cnn_1d,
        sequences.text_student,
        sequences.bert,
        sequences.bert_by_hand,
        sequences.bert_keras,
        sequences.bert_keras_sigmoid,
        sequences.lstm,
        sequences.lstm_while,
    )
}
"""Name → builder of a ``keras.Model`` whose weights are those that Keras starts with."""


@functools.cache
def model(name: str) -> Any:
    """The ``keras.Model`` with weights drawn at random, batch norm's statistics and all biases included."""
    built = ZOO[name]()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for variable in built.variables:
        if not variable.path.startswith("gain/"):  # the text student's constant, not a weight
            variable.assign(_draw(rng, variable.path, tuple(variable.shape)))
    return built


@functools.cache
def graph(name: str, batch: int = 1) -> Graph:
    """The float32 graph of ``model(name)`` with a fixed batch."""
    return convert_keras(model(name), batch=batch)


def samples(of: Graph, n: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """``n`` random rows per input, ``(n, …)``: ``float32``, or ``int32`` ids that every table has a row for.

    A graph with a batch of b takes b rows at a time. Every row has a mean of its own per channel, by which rows still
    differ after global pooling.
    """
    rng = np.random.default_rng(seed)
    by_name = {tensor.name: tensor for tensor in of.inputs}
    tables = [op.inputs[0] for op in of.main if op.name == "GATHER" and op.inputs[0].is_constant]
    rows: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in of.signature.inputs.items():
        shape = (n, *by_name[tensor].shape[1:])
        if by_name[tensor].dtype == "INT32":
            rows[name] = rng.integers(0, min(table.shape[0] for table in tables), shape, np.int32)
        else:
            means = rng.normal(size=(n, *[1] * (len(shape) - 2), shape[-1]))
            rows[name] = rng.normal(means, size=shape).astype(np.float32)
    return rows


def _draw(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values that keep activations near 1 in size, whatever the depth, and leave nothing at its neutral value."""
    layer, _, kind = path.rpartition("/")
    if kind in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape)
    if kind in ("beta", "bias", "moving_mean"):
        return rng.normal(0, 0.3, shape)
    if kind == "embeddings":
        return rng.normal(size=shape)
    summed = np.prod(shape[:2]) if "depthwise" in layer else np.prod(shape[:-1])
    gain = 1.5 if len(shape) > 2 else 1.0
    return rng.normal(0, np.sqrt(gain / summed), shape)
