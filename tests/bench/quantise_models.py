"""The models of ``make bench-quantise``: trained once, for a few minutes, and kept; and the data they are judged on."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

import cifar10
from common import SHARED, need
from edgekd.cache import cache_root
from edgekd_converters.graph import Graph
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import Columns
from edgekd_converters.tflite_model import load_tflite

Array = npt.NDArray[Any]
SEED = 0
_CALIBRATION = 1000
_WORDS, _LENGTH, _VOCABULARY = re.compile(r"[a-z']+"), 24, 4096


@dataclass(frozen=True)
class Subject:
    """``keras``: the model that ``TFLiteConverter`` takes; None where there is only a ``.tflite``.

    ``labels``: of ``test``; None for what is no classifier. ``samples``: for calibration, none of them in ``test``;
    ``sample_labels`` are theirs.
    """

    name: str
    keras: Any
    graph: Graph
    samples: Columns
    test: Columns
    labels: Array | None
    sample_labels: Array | None


def resnet8() -> Subject:
    """MLPerf Tiny's, as trained by its authors."""
    folder = need(SHARED / "mlperf_tiny_resnet8")
    graph = load_tflite(folder / "pretrainedResnet.tflite")
    return _on_cifar("ResNet8", import_module("tf_keras").models.load_model(folder / "pretrainedResnet.h5"), graph)


def mobilenet_v2() -> Subject:
    def build(keras: Any) -> Any:
        whole = keras.applications.MobileNetV2((32, 32, 3), 0.5, include_top=False, weights=None, pooling="avg")
        image = keras.Input((32, 32, 3), name="image")
        scores = keras.layers.Dense(10, name="scores")
        return keras.Model(image, scores(whole(keras.layers.Rescaling(1 / 127.5, -1)(image))))

    return _on_cifar("MobileNetV2 0.5", _trained("mobilenet_v2", build, 8))


def mobilenet_v3() -> Subject:
    def build(keras: Any) -> Any:
        whole = keras.applications.MobileNetV3Small(
            (32, 32, 3), 1.0, include_top=False, weights=None, pooling="avg", include_preprocessing=False
        )
        image = keras.Input((32, 32, 3), name="image")
        scores = keras.layers.Dense(10, name="scores")
        return keras.Model(image, scores(whole(keras.layers.Rescaling(1 / 127.5, -1)(image))))

    return _on_cifar("MobileNetV3-Small", _trained("mobilenet_v3", build, 8))


def ds_cnn() -> Subject:
    """The layers of MLPerf Tiny's keyword spotter, on pictures: its recordings are not here."""

    def build(keras: Any) -> Any:
        image = keras.Input((32, 32, 3), name="image")
        x = keras.layers.Rescaling(1 / 127.5, -1)(image)
        x = keras.layers.Conv2D(64, 5, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        for _ in range(4):
            x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
            x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
            x = keras.layers.Conv2D(64, 1, use_bias=False)(x)
            x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        return keras.Model(image, keras.layers.Dense(10, name="scores")(keras.layers.GlobalAveragePooling2D()(x)))

    return _on_cifar("DS-CNN", _trained("ds_cnn", build, 6))


def autoencoder() -> Subject:
    """MLPerf Tiny's shape for anomalies, 128-128-8-128-128, on grey pictures of 16 by 16."""
    train, _, test, _ = cifar10.load(cache_root() / "cifar10")
    train, test = (
        images.mean(-1).reshape(-1, 16, 2, 16, 2).mean((2, 4)).reshape(-1, 256).astype(np.float32) / 255
        for images in (train, test)
    )

    def build(keras: Any) -> Any:
        x = y = keras.Input((256,), name="x")
        for width in (128, 128, 8, 128, 128):
            y = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Dense(width)(y)))
        return keras.Model(x, keras.layers.Dense(256, name="y")(y))

    model = _kept("autoencoder", build, lambda keras, made: _fit(keras, made, train, train, "mse", 10))
    chosen = np.random.default_rng(SEED).choice(len(train), _CALIBRATION, replace=False)
    return Subject("autoencoder", model, convert_keras(model), {"x": train[chosen]}, {"x": test}, None, None)


def encoder() -> Subject:
    """A small BERT: two layers of attention over words, on BANKING77."""
    train, train_labels = _sentences("train.csv")
    test, labels = _sentences("test.csv")

    def build(keras: Any) -> Any:
        ids = keras.Input((_LENGTH,), dtype="int32", name="ids")
        places = keras.ops.arange(_LENGTH)
        x = keras.layers.Embedding(_VOCABULARY, 64)(ids) + keras.layers.Embedding(_LENGTH, 64)(places)
        x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        for _ in range(2):
            x = keras.layers.LayerNormalization(epsilon=1e-6)(x + keras.layers.MultiHeadAttention(4, 16)(x, x))
            y = keras.layers.Dense(64)(keras.layers.Dense(128, activation="gelu")(x))
            x = keras.layers.LayerNormalization(epsilon=1e-6)(x + y)
        return keras.Model(ids, keras.layers.Dense(77, name="scores")(keras.layers.GlobalAveragePooling1D()(x)))

    def fit(keras: Any, model: Any) -> None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        _fit(keras, model, train, train_labels, loss, 15)

    model = _kept("encoder", build, fit)
    chosen = np.random.default_rng(SEED).choice(len(train), _CALIBRATION, replace=False)
    found = {"ids": train[chosen]}
    return Subject("BERT-like", model, convert_keras(model), found, {"ids": test}, labels, train_labels[chosen])


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet8": resnet8,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "ds_cnn": ds_cnn,
    "autoencoder": autoencoder,
    "encoder": encoder,
}


def _on_cifar(name: str, model: Any, graph: Graph | None = None) -> Subject:
    train, train_labels, test, labels = cifar10.load(cache_root() / "cifar10")
    made = graph or convert_keras(model)
    (public,) = made.signature.inputs
    chosen = np.random.default_rng(SEED).choice(len(train), _CALIBRATION, replace=False)
    samples, whole = ({public: images.astype(np.float32)} for images in (train[chosen], test))
    return Subject(name, model, made, samples, whole, labels, train_labels[chosen])


def _trained(name: str, build: Callable[[Any], Any], epochs: int) -> Any:
    train, labels, *_ = cifar10.load(cache_root() / "cifar10")

    def fit(keras: Any, model: Any) -> None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        _fit(keras, model, train.astype(np.float32), labels, loss, epochs)

    return _kept(name, build, fit)


def _kept(name: str, build: Callable[[Any], Any], fit: Callable[[Any, Any], None]) -> Any:
    import keras

    path = cache_root() / "bench" / "quantise" / f"{name}.keras"
    if not path.is_file():
        keras.utils.set_random_seed(SEED)
        model = build(keras)
        fit(keras, model)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return keras.models.load_model(path)


def _fit(keras: Any, model: Any, x: Array, y: Array, loss: Any, epochs: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, epochs * (len(x) // 128))
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4), loss)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=2)


def _sentences(file: str) -> tuple[Array, Array]:
    """Words, hashed; 0 is padding. Labels in the order of their names."""
    with need(SHARED / "banking77" / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = sorted({row["category"] for row in rows})
    ids = np.zeros((len(rows), _LENGTH), np.int32)
    for i, row in enumerate(rows):
        words = _WORDS.findall(row["text"].lower())[:_LENGTH]
        ids[i, : len(words)] = [1 + zlib.crc32(word.encode()) % (_VOCABULARY - 1) for word in words]
    return ids, np.array([names.index(row["category"]) for row in rows])
