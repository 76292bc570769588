"""The models of ``make bench-quantise``: trained once, for a few minutes, and kept; and the data they are judged on."""

from __future__ import annotations

import csv
import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import cifar10
import photographs
from common import SHARED, need
from edgekd.cache import cache_root
from edgekd.samples import read_text_data, to_ids
from edgekd.student import open_student
from edgekd_converters.divergence import run_columns
from edgekd_converters.graph import Graph
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.load.onnx import open_source
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.observe import Columns
from edgekd_converters.qat import QatOptions
from edgekd_converters.tflite_model import load_tflite
from edgekd_runtime.preprocess import TextNgram
from prune_text import distilled

Array = npt.NDArray[Any]
SEED = 0
_CALIBRATION, _BATCH, _SETTLING = 1000, 128, 100
_CALIBRATION_CROPS, _CROPS, _SCENES = 480, 400, 3000
_DROPOUT, _SOFT = 0.2, 2.0  # of the encoder's training; its softmax's temperature
_QAT = QatOptions(300)
_WORDS, _LENGTH, _VOCABULARY = re.compile(r"[a-z']+"), 24, 4096


@dataclass(frozen=True)
class Subject:
    """``keras``: the model that ``TFLiteConverter`` takes; None where there is only a ``.tflite``.

    ``labels``: of ``test``; None for what is no classifier. ``truth``: what is on the pictures, where ``labels`` are
    the float model's own answers. ``samples``: for calibration, none of them in ``test``; ``sample_labels`` are theirs.
    ``metric``: what the score is. ``noise``: one grey level in the input's units, to see how firm the float model's
    answers are. ``trains_on``: makes what is trained on, without labels; None: ``samples``. ``qat``: how.
    ``needs_training``: ours is judged as trained.
    """

    name: str
    keras: Any
    graph: Graph
    samples: Columns
    test: Columns
    labels: Array | None
    sample_labels: Array | None
    metric: str = "top-1"
    truth: Array | None = None
    noise: float = 0.0
    trains_on: Callable[[], Columns] | None = None
    qat: QatOptions = _QAT
    needs_training: bool = False


def resnet8() -> Subject:
    """MLPerf Tiny's, as trained by its authors."""
    folder = need(SHARED / "mlperf_tiny_resnet8")
    graph = load_tflite(folder / "pretrainedResnet.tflite")
    return _on_cifar("ResNet8", import_module("tf_keras").models.load_model(folder / "pretrainedResnet.h5"), graph)


def mobilenet_v2() -> Subject:
    def build(keras: Any) -> Any:
        whole = keras.applications.MobileNetV2((32, 32, 3), 0.5, include_top=False, weights=None, pooling="avg")
        whole = _unstrided(whole, "Conv1")
        image = keras.Input((32, 32, 3), name="image")
        scores = keras.layers.Dense(10, name="scores")
        return keras.Model(image, scores(whole(keras.layers.Rescaling(1 / 127.5, -1)(image))))

    return _on_cifar("MobileNetV2 0.5", _trained("mobilenet_v2", build, 24))


def mobilenet_v3() -> Subject:
    def build(keras: Any) -> Any:
        whole = keras.applications.MobileNetV3Small(
            (32, 32, 3), 1.0, include_top=False, weights=None, pooling="avg", include_preprocessing=False
        )
        whole = _unstrided(whole, "conv")
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

    return _on_cifar("DS-CNN", _trained("ds_cnn", build, 10))


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
    return Subject(
        "autoencoder", model, convert_keras(model), {"x": train[chosen]}, {"x": test}, None, None, "error / variance"
    )


def encoder(seed: int = SEED) -> Subject:
    """A small BERT: two layers of attention over words, on BANKING77, under the n-gram student as its teacher."""
    train, train_labels = _sentences("train.csv")
    test, labels = _sentences("test.csv")

    def build(keras: Any) -> Any:
        ids = keras.Input((_LENGTH,), dtype="int32", name="ids")
        places = keras.ops.arange(_LENGTH)
        x = keras.layers.Embedding(_VOCABULARY, 64)(ids) + keras.layers.Embedding(_LENGTH, 64)(places)
        x = keras.layers.Dropout(_DROPOUT)(keras.layers.LayerNormalization(epsilon=1e-6)(x))
        for _ in range(2):
            x = keras.layers.LayerNormalization(epsilon=1e-6)(x + keras.layers.MultiHeadAttention(4, 16)(x, x))
            y = keras.layers.Dense(64)(keras.layers.Dense(128, activation="gelu")(x))
            x = keras.layers.LayerNormalization(epsilon=1e-6)(x + keras.layers.Dropout(_DROPOUT)(y))
        return keras.Model(ids, keras.layers.Dense(77, name="scores")(keras.layers.GlobalAveragePooling1D()(x)))

    def fit(keras: Any, model: Any) -> None:
        def loss(soft: Any, logits: Any) -> Any:
            return _SOFT**2 * keras.losses.categorical_crossentropy(soft, logits / _SOFT, from_logits=True)

        teacher, columns, _, _ = _ngram_student()
        soft = keras.ops.softmax(teacher.predict(columns.seen, batch_size=256, verbose=0) / _SOFT)
        _fit(keras, model, train, np.asarray(soft), loss, 20)

    model = _kept(f"encoder_{seed}", build, fit, seed)
    chosen = np.random.default_rng(seed).choice(len(train), _CALIBRATION, replace=False)
    found = {"ids": train[chosen]}
    return Subject("BERT-like", model, convert_keras(model), found, {"ids": test}, labels, train_labels[chosen])


def banking77() -> Subject:
    """The student of ``make bench-banking77``: n-grams, hashed, looked up and summed."""
    model, columns, seen, labels = _ngram_student()
    chosen = np.random.default_rng(SEED).choice(len(seen), _CALIBRATION, replace=False)
    found, tested = {"ids": columns.seen[chosen]}, {"ids": columns.others}
    return Subject("BANKING77 student", model, convert_keras(model), found, tested, labels, seen[chosen])


class _Columns(NamedTuple):
    """Ids of the training and of the test sentences."""

    seen: Array
    others: Array


def _ngram_student() -> tuple[Any, _Columns, Array, Array]:
    """The model, its inputs, and the labels of training and test sentences, by the student's own numbers."""
    import keras

    folder, data = distilled(need(SHARED / "banking77")), SHARED / "banking77"
    student = open_student(folder)
    assert isinstance(student.preprocess, TextNgram)
    parts = [read_text_data(data / file, "text", "category") for file in ("train.csv", "test.csv")]
    seen, others = (to_ids(student.preprocess, part.texts, part.path) for part in parts)
    targets, labels = (part.targets(student.labels) for part in parts)
    return keras.models.load_model(student.model), _Columns(seen, others), targets, labels


def efficientnet() -> Subject:
    """As published, from ONNX; judged by agreement with its own float form on crops of ImageNet's photographs."""
    source = open_source(need(SHARED / "efficientnet_lite0" / "efficientnet_lite0.onnx"), LoadOptions())
    pictures = photographs.load()
    (public,) = source.graph.signature.inputs

    def columns(crops: Array) -> Columns:
        return {public: ((crops - 127) / 128).astype(np.float32)}

    samples = columns(photographs.crops(pictures, photographs.SEEN, _CALIBRATION_CROPS, 224, seed=1))
    test = columns(photographs.crops(pictures, photographs.IMAGENET, _CROPS, 224, seed=2))
    labels = run_columns(source.graph, test)[next(iter(source.graph.signature.outputs))].argmax(1)
    return Subject(
        "EfficientNet-Lite0",
        None,
        source.graph,
        samples,
        test,
        labels,
        None,
        "agreement",
        truth=np.resize([*photographs.IMAGENET.values()], _CROPS),
        noise=1 / 128,
        trains_on=lambda: columns(photographs.scenes(pictures, _SCENES, 224, seed=3)),
        qat=QatOptions(900, batch=16),
        needs_training=True,
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet8": resnet8,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "ds_cnn": ds_cnn,
    "autoencoder": autoencoder,
    **{f"encoder_{seed}": partial(encoder, seed) for seed in range(5)},
    "banking77": banking77,
    "efficientnet": efficientnet,
}


def _on_cifar(name: str, model: Any, graph: Graph | None = None) -> Subject:
    train, train_labels, test, labels = cifar10.load(cache_root() / "cifar10")
    made = graph or convert_keras(model)
    (public,) = made.signature.inputs
    chosen = np.random.default_rng(SEED).choice(len(train), _CALIBRATION, replace=False)
    samples, whole = ({public: images.astype(np.float32)} for images in (train[chosen], test))
    return Subject(name, model, made, samples, whole, labels, train_labels[chosen])


def _unstrided(model: Any, layer: str) -> Any:
    """With stride 1 in its first convolution: of 32 pixels too little would be left otherwise."""
    config = model.get_config()
    (first,) = (one["config"] for one in config["layers"] if one["config"]["name"] == layer)
    first["strides"] = (1, 1)
    return type(model).from_config(config)


def _trained(name: str, build: Callable[[Any], Any], epochs: int) -> Any:
    train, labels, *_ = cifar10.load(cache_root() / "cifar10")

    def fit(keras: Any, model: Any) -> None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        _compile(keras, model, loss, epochs * (len(train) // _BATCH))
        model.fit(_moved(train, labels, epochs), steps_per_epoch=len(train) // _BATCH, epochs=epochs, verbose=2)
        settle(model, train)

    return _kept(f"{name}_{epochs}", build, fit)


def _kept(name: str, build: Callable[[Any], Any], fit: Callable[[Any, Any], None], seed: int = SEED) -> Any:
    import keras

    path = cache_root() / "bench" / "quantise" / f"{name}.keras"
    if not path.is_file():
        keras.utils.set_random_seed(seed)
        model = build(keras)
        fit(keras, model)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return keras.models.load_model(path, compile=False)


def _fit(keras: Any, model: Any, x: Array, y: Array, loss: Any, epochs: int) -> None:
    _compile(keras, model, loss, epochs * (len(x) // _BATCH))
    model.fit(x, y, batch_size=_BATCH, epochs=epochs, verbose=2)


def _compile(keras: Any, model: Any, loss: Any, steps: int) -> None:
    """Without XLA, which takes minutes to compile a MobileNet and then no less time for a step."""
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4), loss, jit_compile=False)


def settle(model: Any, images: Array) -> None:
    """The statistics of normalisations once more: Keras' MobileNets keep an average over the last thousands of steps,
    which a short training has not had."""
    layers, normal = [model], []
    while layers:
        layer = layers.pop()
        layers += getattr(layer, "layers", [])
        normal += [layer] if type(layer).__name__ == "BatchNormalization" else []
    for layer in normal:
        layer.momentum = 0.9
    for batch, _ in itertools.islice(_moved(images, images, 1), _SETTLING):
        model(batch, training=True)


def _moved(images: Array, labels: Array, epochs: int) -> Iterator[tuple[Array, Array]]:
    """Batches of ``(128, 32, 32, 3) float32``: half of the pictures mirrored, all moved by up to 4 pixels."""
    rng = np.random.default_rng(SEED)
    wide = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, images.shape[1:3], axis=(1, 2))  # type: ignore[call-overload]
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - _BATCH + 1, _BATCH):
            rows, places = order[start : start + _BATCH], rng.integers(0, 9, (2, _BATCH))
            batch = windows[rows, places[0], places[1]].transpose(0, 2, 3, 1)
            mirrored = rng.random(_BATCH) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
            yield batch.astype(np.float32), labels[rows]


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
