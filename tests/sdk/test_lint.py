"""The linter is silent on good samples and names what is wrong with bad ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd.cache import cache_root
from edgekd.lint import Finding, lint
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.keras3 import load_archive
from edgekd_converters.load.keras_source import convert_keras
from edgekd_runtime.preprocess import TextNgram, load
from edgekd_runtime.preprocess.image import Image

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]

CIFAR = cache_root() / "cifar10"  # the user's own; read before the tests get one of theirs
ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
STUDENT = ROOT / "build" / "bench" / "banking77" / "student"


def codes(findings: list[Finding]) -> list[str]:
    for finding in findings:
        json.dumps(finding.to_dict(), allow_nan=False)
        assert "\n" not in finding.message
    return [finding.code for finding in findings]


@dataclass(frozen=True)
class Subject:
    """A trained model with samples that suit it: ``images`` of 0 to 255."""

    graph: Graph
    name: str
    images: Array
    targets: Array
    held: Array
    held_targets: Array
    classes: int

    def lint(self, change: Change = lambda images: images, *, labelled: bool = False, **more: Any) -> list[str]:
        given = {"targets": self.targets} if labelled else {}
        changed = np.ascontiguousarray(change(self.images), np.float32)
        return codes(lint({self.name: changed}, self.graph, **{"classes": self.classes, **given, **more}))


def salted(images: Array) -> Array:
    spoilt = images.copy()
    spoilt[np.random.default_rng(0).random(images.shape) < 0.01] *= 100
    return spoilt


def loud_rows(images: Array) -> Array:
    spoilt = images.copy()
    spoilt[::100] *= 100
    return spoilt


def one_nan(images: Array) -> Array:
    spoilt = images.copy()
    spoilt[len(images) // 2, 3, 4, 1] = np.nan
    return spoilt


def as_imagenet(images: Array) -> Array:
    return (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


BAD: dict[str, tuple[Change, str]] = {
    "divided by 255": (lambda x: x / 255, "scale"),
    "divided by 255 twice": (lambda x: x / 65025, "scale"),
    "from -1 to 1": (lambda x: x / 127.5 - 1, "scale"),
    "ImageNet's": (as_imagenet, "scale"),
    "times 255": (lambda x: x * 255, "scale"),
    "BGR": (lambda x: x[..., ::-1], "channel-order"),
    "NCHW": (lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape), "layout"),
    "eight": (lambda x: x[:8], "too-few"),
    "salted": (salted, "outliers"),
    "loud rows": (loud_rows, "outliers"),
    "NaN": (one_nan, "nan"),
    "the same": (lambda x: np.repeat(x[:1], len(x), 0), "constant"),
    "a channel short": (lambda x: x * np.array([1, 0, 1], np.float32), "constant"),
    "many blank": (lambda x: np.where(np.arange(len(x))[:, None, None, None] % 20, x, 7), "constant"),
    "repeated": (lambda x: np.concatenate([x[:100], x[:100]]), "duplicates"),
}


def photographs(count: int, seed: int) -> tuple[Array, Array]:
    """``(n, 16, 16, 3)`` of 0 to 255: a disc in one of four colours on shaded, mostly bluish ground; ``(n,)`` which."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16].astype(np.float32)
    targets = rng.integers(0, 4, count)
    tilt = rng.normal(0, 4, (3, count, 1, 1))
    ground = tilt[0] * (y - 8) + tilt[1] * (x - 8) + 110 + 5 * tilt[2]
    images = ground[..., None] + np.array([-15, 0, 15]) + rng.normal(0, 12, (count, 1, 1, 3))
    centre, radius = rng.uniform(5, 11, (2, count, 1, 1)), rng.uniform(3, 5, (count, 1, 1))
    edge = np.clip(radius - np.hypot(y - centre[0], x - centre[1]), -1, 1) / 2 + 0.5
    colours = np.array([[200, 70, 60], [60, 190, 80], [70, 80, 210], [210, 200, 60]], np.float32)
    disc = colours[targets][:, None, None, :] + rng.normal(0, 15, (count, 1, 1, 3))
    images = images * (1 - edge[..., None]) + disc * edge[..., None] + rng.normal(0, 6, (count, 16, 16, 3))
    return np.clip(np.rint(images), 0, 255).astype(np.float32), targets


@pytest.fixture(scope="module")
def discs(keras: Any) -> Subject:
    """A small network with batch norm, trained on pixels from 0 to 255."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((16, 16, 3), name="image")
    x = image
    for width, stride in ((8, 1), (16, 2)):
        x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="scores")(x))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    images, targets = photographs(1200, seed=0)
    model.fit(images, targets, batch_size=32, epochs=6, verbose=0)
    return Subject(convert_keras(model), "image", *photographs(300, seed=1), *photographs(200, seed=2), 4)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_it_is_silent_on_good_samples(discs: Subject, labelled: bool, held: bool) -> None:
    more = {"evaluation": {"image": discs.held}, "evaluation_targets": discs.held_targets} if held else {}
    assert discs.lint(labelled=labelled, preprocess=Image(height=16, width=16), **more) == []


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_it_names_what_is_wrong(discs: Subject, kind: str, labelled: bool) -> None:
    change, code = BAD[kind]
    more = {"targets": discs.targets[: len(change(discs.images))]} if labelled else {}
    assert discs.lint(change, **more) == [code]


def test_figures_are_those_of_the_samples(discs: Subject) -> None:
    found = lint({"image": discs.images / 255}, discs.graph, targets=discs.targets, classes=4)
    by_code = {finding.code: finding for finding in found}
    assert (by_code["scale"].figures["low"], by_code["scale"].figures["high"]) == (0, 1)
    assert by_code["scale"].figures["variant_accuracy"] > by_code["scale"].figures["accuracy"] + 0.5
    assert "from 0 to 255" in by_code["scale"].message
    nan = lint({"image": one_nan(discs.images)}, discs.graph, classes=4)[0]
    assert (nan.severity, nan.figures["rows"], nan.figures["share"]) == ("error", 1, 1 / discs.images.size)
    assert "1 of 300 samples hold NaN" in nan.message


def test_it_reads_what_is_sliced_and_indexed_like_an_array(discs: Subject) -> None:
    class Lazy:
        shape, dtype, ndim = discs.images.shape, discs.images.dtype, 4

        def __len__(self) -> int:
            return len(discs.images)

        def __getitem__(self, rows: Any) -> Array:
            assert isinstance(rows, (slice, np.ndarray))
            return one_nan(discs.images)[rows]

    assert codes(lint({"image": Lazy()}, discs.graph, classes=4)) == ["nan"]  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda x: x / 255, "shift"),
        (lambda x: x * 0.4, "shift"),
        (lambda x: np.clip(x + 60, 0, 255), "shift"),
        (lambda x: x[..., ::-1], "channel-order"),
    ],
)
def test_samples_are_held_against_the_eval_set(discs: Subject, change: Change, code: str) -> None:
    assert discs.lint(change, evaluation={"image": discs.held})[0] == code


@pytest.mark.parametrize(
    ("preprocess", "found"),
    [
        (Image(height=16, width=16, scale=1 / 255), ["preprocess"]),
        (Image(height=16, width=16, mean=(127.5,), std=(127.5,)), ["preprocess"]),
        (Image(height=16, width=16, scale=100), ["preprocess"]),
        (Image(height=16, width=16), []),
    ],
)
def test_samples_are_held_against_the_preprocessing(discs: Subject, preprocess: Image, found: list[str]) -> None:
    assert discs.lint(preprocess=preprocess) == found


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (lambda y: y + 1, "label-range"),
        (lambda y: y * 0 + 2, "one-class"),
        (lambda y: np.where(y == 3, 0, y), "classes-missing"),
        (lambda y: np.where(np.arange(len(y)) < 6, np.arange(len(y)) % 4, 0), "imbalance"),
        (lambda y: (y + 1) % 4, "guessing"),
    ],
)
def test_labels_are_read(discs: Subject, labels: Change, code: str) -> None:
    found = lint({"image": discs.images}, discs.graph, targets=labels(discs.targets), classes=4)
    assert code in codes(found)
    assert (found[0].severity == "error") == (code == "label-range")
    held = lint(
        {"image": discs.images},
        discs.graph,
        evaluation={"image": discs.images},
        evaluation_targets=labels(discs.targets),
        classes=4,
    )
    assert (code in codes(held)) == (code != "guessing")  # the model is asked about the samples only


def test_samples_of_one_class_are_told_without_labels(discs: Subject) -> None:
    images, targets = photographs(900, seed=4)
    assert codes(lint({"image": images[targets == 1]}, discs.graph, classes=4)) == ["one-class"]


def test_a_model_that_hears_nothing(keras: Any, discs: Subject) -> None:
    """Neither classes nor pictures in a known range: that the outputs hardly move is all there is to see."""
    keras.utils.set_random_seed(2)
    x = keras.Input((20,), name="x")
    y = keras.layers.Dense(6, bias_initializer=keras.initializers.RandomNormal(0, 1))(x)
    graph = convert_keras(keras.Model(x, y))
    rows = np.random.default_rng(5).normal(size=(200, 20)).astype(np.float32)
    assert codes(lint({"x": rows}, graph)) == []
    assert codes(lint({"x": rows / 1000}, graph)) == ["same-answers"]


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda rng: rng.integers(0, 9, (200, 20)), []),
        (lambda rng: rng.uniform(0, 9, (200, 20)), ["dtype"]),
        (lambda rng: rng.integers(0, 9, (200, 20)) + (1 << 40), ["dtype"]),
    ],
)
def test_whole_numbers_stay_whole(keras: Any, make: Callable[[Any], Array], found: list[str]) -> None:
    ids = keras.Input((20,), dtype="int32", name="ids")
    graph = convert_keras(keras.Model(ids, keras.layers.Dense(3)(keras.layers.Embedding(9, 4)(ids))))
    findings = lint({"ids": make(np.random.default_rng(6))}, graph)
    assert codes(findings) == found
    assert all(finding.severity == "error" for finding in findings)


def test_float64_is_said_and_uint8_is_fine(discs: Subject) -> None:
    assert codes(lint({"image": discs.images.astype(np.float64)}, discs.graph, classes=4)) == ["dtype"]
    assert codes(lint({"image": discs.images.astype(np.uint8)}, discs.graph, classes=4)) == []


def test_heavy_tails_and_sparse_rows_are_no_outliers(keras: Any) -> None:
    x = keras.Input((40,), name="x")
    graph = convert_keras(keras.Model(x, keras.layers.Dense(1)(x)))
    rng = np.random.default_rng(7)
    counts = rng.poisson(0.02, (500, 40)) * 1.0  # most are zero
    for rows in (
        rng.laplace(size=(500, 40)),
        rng.exponential(size=(500, 40)),
        counts,
        np.eye(40)[rng.integers(0, 40, 500)],
    ):
        assert "outliers" not in codes(lint({"x": rows.astype(np.float32)}, graph))
    counts[5, 7] = 5000
    assert "outliers" in codes(lint({"x": counts.astype(np.float32)}, graph))


# Texts


@dataclass(frozen=True)
class Talk:
    """The tiny student of the other tests: three labels, and texts that it knows."""

    graph: Graph
    preprocess: TextNgram
    texts: list[str]

    def lint(self, texts: list[str], **more: Any) -> list[str]:
        columns = {"ids": np.stack([self.preprocess(text) for text in texts])}
        return codes(lint(columns, self.graph, classes=3, texts=texts, preprocess=self.preprocess, **more))


@pytest.fixture(scope="module")
def talk(student_folder: Path, task: Any) -> Talk:
    preprocess = load(json.loads((student_folder / "preprocess.json").read_text("utf-8")))
    assert isinstance(preprocess, TextNgram)
    with task.train.open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    graph = convert_keras(load_archive(student_folder / "student.keras"))
    return Talk(graph, preprocess, texts + [f"{text} now" for text in texts])


def test_texts_as_they_should_be(talk: Talk) -> None:
    assert talk.lint(talk.texts) == ["cut-off"]  # the student reads 63 n-grams only


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda texts: texts[:60] + texts[:60], "duplicates"),
        (lambda texts: texts[:60] + [text.upper() + " " for text in texts[:60]], "duplicates"),
        (lambda texts: texts + ["?!" + "?" * i for i in range(9)], "empty-texts"),
        (lambda texts: texts[:20], "too-few"),
    ],
)
def test_texts_with_something_wrong(talk: Talk, change: Callable[[list[str]], list[str]], code: str) -> None:
    assert code in talk.lint(change(talk.texts))


# Real models and data, where they are


@pytest.fixture(scope="module")
def resnet8() -> Subject:
    """MLPerf Tiny's; it takes pixels from 0 to 255."""
    model = SHARED / "mlperf_tiny_resnet8" / "pretrainedResnet.tflite"
    arrays = [CIFAR / f"test_{kind}.npy" for kind in "xy"]
    if not model.is_file() or not all(path.is_file() for path in arrays):
        pytest.skip(f"{model} or {CIFAR} is not here; 'make bench-cifar10' fetches CIFAR-10")
    images, targets = (np.load(path, mmap_mode="r", allow_pickle=False) for path in arrays)
    graph = read_graph(model.read_bytes())
    rows, held = slice(0, 500), slice(5000, 5500)
    parts = (array[part] for part in (rows, held) for array in (images, targets))
    samples, sample_targets, others, other_targets = parts
    name = next(iter(graph.signature.inputs))
    return Subject(graph, name, samples.astype(np.float32), sample_targets, others, other_targets, 10)


@pytest.mark.parametrize("labelled", [False, True])
def test_resnet8_on_cifar10_as_published(resnet8: Subject, labelled: bool) -> None:
    assert resnet8.lint(labelled=labelled) == []
    more = {"evaluation": {resnet8.name: resnet8.held}, "evaluation_targets": resnet8.held_targets}
    assert resnet8.lint(labelled=labelled, **more) == []


@pytest.mark.parametrize("kind", BAD)
def test_resnet8_on_spoilt_samples(resnet8: Subject, kind: str) -> None:
    change, code = BAD[kind]
    assert resnet8.lint(change) == [code]


def test_resnet8_on_cats_alone(resnet8: Subject) -> None:
    images = np.load(CIFAR / "test_x.npy", mmap_mode="r")[np.load(CIFAR / "test_y.npy") == 3].astype(np.float32)
    assert codes(lint({resnet8.name: images}, resnet8.graph, classes=10)) == ["one-class"]


@pytest.fixture(scope="module")
def banking77() -> Talk:
    if not (STUDENT / "student.keras").is_file() or not (SHARED / "banking77").is_dir():
        pytest.skip(f"{STUDENT} is not here; 'make bench-banking77' makes it")
    with (SHARED / "banking77" / "train.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)][::20]
    preprocess = load(json.loads((STUDENT / "preprocess.json").read_text("utf-8")))
    assert isinstance(preprocess, TextNgram)
    return Talk(convert_keras(load_archive(STUDENT / "student.keras")), preprocess, texts)


def test_a_real_text_student(banking77: Talk) -> None:
    letters = np.random.default_rng(8).choice(list("qwrtzpxkv "), (300, 30))
    gibberish = ["".join(row) for row in letters]

    def said(texts: list[str], **more: Any) -> list[str]:
        columns = {"ids": np.stack([banking77.preprocess(text) for text in texts])}
        more = {"classes": 77, "texts": texts, "preprocess": banking77.preprocess, **more}
        return codes(lint(columns, banking77.graph, **more))

    held = {"ids": np.stack([banking77.preprocess(text) for text in banking77.texts[1::2]])}
    assert said(banking77.texts) == []
    assert said(banking77.texts[::2], evaluation=held) == []
    assert said(gibberish) == ["unknown-texts"]
    assert said(gibberish, evaluation=held) == ["unlike-eval"]
