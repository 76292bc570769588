"""``edgekd convert`` of a plain ``.tflite`` with ``.npz`` samples: the bundle, the report, the refusals."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import Result

from edgekd_converters.graph import read_graph
from edgekd_converters.integer import require_integer
from edgekd_converters.load.keras_source import convert_keras
from edgekd_runtime import api
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.routes import Site
from edgekd_runtime.server import Application

Cli = Callable[..., Result]
Fails = Callable[..., str]
LABELS = "upright\nlying\naslant\n"


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def copied(pictures: Any, folder: Path, labels: str | None = None) -> Path:
    """The model alone in a folder of its own, with a ``labels.txt`` beside it if there is one."""
    folder.mkdir(exist_ok=True)
    if labels is not None:
        (folder / "labels.txt").write_text(labels, "utf-8")
    return Path(shutil.copy(pictures.model, folder / "model.tflite"))


@pytest.fixture(scope="module")
def pictured(cli: Cli, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a bundle that knows its labels. Do not write into it."""
    folder = tmp_path_factory.mktemp("pictured")
    model = copied(pictures, folder / "in", LABELS)
    data = ["--samples", pictures.samples, "--eval", pictures.eval, "--max-drop", "0.1"]
    result = cli("convert", model, *data, "--output", folder / "stripes", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    return folder / "stripes"


@pytest.fixture(scope="module")
def engine(pictured: Path) -> Engine:
    return Engine(load_bundle(pictured / "stripes.edgekd"))


def test_the_files(pictured: Path, pictures: Any, engine: Engine) -> None:
    assert {path.name for path in pictured.iterdir()} == {
        "float.tflite",
        "int8.tflite",
        "stripes.edgekd",
        "ranges.json",
        "report.html",
        "report.json",
    }
    assert (pictured / "float.tflite").read_bytes() == pictures.model.read_bytes()
    assert engine.bundle.model == (pictured / "int8.tflite").read_bytes()
    require_integer(read_graph(engine.bundle.model))
    assert engine.bundle.labels == tuple(LABELS.split())
    assert engine.bundle.scores == "logits"
    assert (engine.bundle.preprocess, engine.takes) == (None, None)


def test_the_report(pictured: Path) -> None:
    report = report_of(pictured)
    assert report["judged_on"] == {"file": "eval", "rows": 150}
    assert report["calibration_samples"] == 200
    assert report["accuracy"]["float"] > 0.8
    assert report["accuracy"]["int8"] > report["accuracy"]["float"] - 0.1
    assert 0.9 < report["agreement"] <= 1
    assert report["relative_rmse"] is None
    assert set(report["files"]) == {"samples", "eval", "student"}
    loaded, int8 = report["stages"]
    assert (loaded["stage"], int8["stage"]) == ("loaded", "int8")
    assert loaded["parameters"] == int8["parameters"] == 448 + 3480 + 3472 + 4640 + 99
    assert loaded["macs"] == int8["macs"] == 144 * (432 + 3456 + 3456) + 36 * 4608 + 96
    assert (loaded["bytes"], int8["bytes"]) == (report["bytes"]["float"], report["bytes"]["int8"])
    assert (loaded["accuracy"], loaded["agreement"]) == (report["accuracy"]["float"], 1)
    assert int8["accuracy"] == report["accuracy"]["int8"]


def test_the_bundle_answers_as_the_report_says(pictured: Path, pictures: Any, engine: Engine) -> None:
    batches = np.array_split(pictures.images, 5)
    scores = np.concatenate([engine.infer({"image": batch})["scores"] for batch in batches])
    assert (scores.argmax(1) == pictures.targets).mean() == report_of(pictured)["accuracy"]["int8"]
    golden = engine.bundle.golden
    assert golden is not None
    assert (len(golden), golden.texts) == (16, ())
    assert (golden.inputs["image"].shape, golden.inputs["image"].dtype) == ((16, 12, 12, 3), np.int8)


def test_the_bundle_is_served(pictures: Any, engine: Engine) -> None:
    image = pictures.images[:2]
    tensor = {"name": "image", "datatype": "FP32", "shape": [2, 12, 12, 3], "data": image.ravel().tolist()}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Application(Site({"stripes": engine}, api.ROUTES)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v2/models/stripes/infer", json={"inputs": [tensor]})

    outputs = {one["name"]: one for one in asyncio.run(ask()).json()["outputs"]}
    wanted = engine.infer({"image": image})["scores"]
    np.testing.assert_allclose(outputs["scores"]["data"], wanted.ravel(), rtol=1e-6)
    assert outputs["label"]["data"] == [LABELS.split()[i] for i in wanted.argmax(1)]


def test_without_labels_without_eval(cli: Cli, pictures: Any, tmp_path: Path) -> None:
    model, data = copied(pictures, tmp_path / "in"), tmp_path / "x.npz"
    np.savez(data, x=pictures.images[:30])
    result = cli("convert", model, "--samples", data, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["accuracy"], report["out_of_scope"]) == (None, None)
    assert report["judged_on"] == {"file": "samples", "rows": 30}
    bundle = load_bundle(tmp_path / "out/out.edgekd")
    assert (bundle.labels, bundle.threshold) == ((), None)
    assert set(Engine(bundle).infer({"image": pictures.images[:1]})) == {"scores"}


@pytest.mark.parametrize("reshaped", [False, True])
def test_a_model_that_ends_in_a_softmax_gets_no_second_one(
    cli: Cli, keras: Any, pictures: Any, tmp_path: Path, reshaped: bool
) -> None:
    image = keras.Input((12, 12, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, activation="relu")(image))
    x = keras.layers.Softmax()(keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(0, 6, 1))(x))
    model = keras.Model(image, keras.layers.Reshape((3,))(keras.layers.Reshape((1, 3))(x)) if reshaped else x)
    (tmp_path / "soft.tflite").write_bytes(convert_keras(model).content)
    (tmp_path / "labels.txt").write_text(LABELS)
    data = ["--samples", pictures.samples, "--eval", pictures.eval, "--out-of-scope", pictures.samples]
    assert cli("convert", tmp_path / "soft.tflite", *data, "--output", tmp_path / "out").exit_code == 0
    bundle = load_bundle(tmp_path / "out/out.edgekd")
    assert bundle.scores == "probabilities"
    engine = Engine(bundle)
    name = engine.outputs[0].name
    rows = np.concatenate([engine.infer({"image": one[None]})[name] for one in pictures.images])
    ranked = [engine.rank(row, 1) for row in rows]
    assert [one.score for one in ranked] == rows.max(1).tolist()
    assert max(one.score for one in ranked) > 0.58  # as much as a softmax can make of a single 1 among three
    lowest = np.quantile(rows.max(1), 0.05, method="lower")
    assert bundle.threshold == pytest.approx(lowest, rel=2e-6)
    accepted = report_of(tmp_path / "out")["out_of_scope"]["in_scope_accepted"]
    assert np.mean([one.in_scope for one in ranked]) == accepted


def test_labels_by_option_come_before_those_beside(cli: Cli, pictures: Any, tmp_path: Path) -> None:
    model = copied(pictures, tmp_path / "in", LABELS)
    (tmp_path / "names").write_text("a\nb\nc\n")
    (tmp_path / "answers.json").write_text('{"b": {"en": "It lies."}}')
    named = ["--labels", tmp_path / "names", "--answers", tmp_path / "answers.json", "--max-samples", 20]
    result = cli("convert", model, "--samples", pictures.samples, *named, "--output", tmp_path / "out", "--quiet")
    assert result.exit_code == 0
    bundle = load_bundle(tmp_path / "out/out.edgekd")
    assert (bundle.labels, bundle.answers) == (("a", "b", "c"), {"b": {"en": "It lies."}})
    assert {"labels", "answers"} <= set(report_of(tmp_path / "out")["files"])
    assert report_of(tmp_path / "out")["calibration_samples"] == 20


def test_uint8_is_not_rescaled(cli: Cli, pictures: Any, tmp_path: Path) -> None:
    """Images of 0 … 255 for a model trained on other numbers are its owner's error, and must stay visible as such."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "u.npz", x=pixels)
    np.savez(tmp_path / "f.npz", x=pixels.astype(np.float32))
    for name in "uf":
        result = cli("convert", pictures.model, "--samples", tmp_path / f"{name}.npz", "--output", tmp_path / name)
        assert result.exit_code == 0
    assert (tmp_path / "u/int8.tflite").read_bytes() == (tmp_path / "f/int8.tflite").read_bytes()
    assert Engine(load_bundle(tmp_path / "u/u.edgekd")).inputs[0].scale == pytest.approx(1, abs=0.01)


@pytest.fixture(scope="module")
def summing(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs, two outputs, none of them a classifier's."""
    keras.utils.set_random_seed(6)
    left, right = keras.Input((8, 4), name="left"), keras.Input((3,), name="right")
    both = keras.layers.Concatenate()([keras.layers.Flatten()(left), right])
    grid = keras.layers.Reshape((4, 2), name="grid")(keras.layers.Dense(8, activation="relu")(both))
    model = keras.Model([left, right], [grid, keras.layers.Dense(1, name="total")(both)])
    path = tmp_path_factory.mktemp("summing") / "summing.tflite"
    path.write_bytes(convert_keras(model).content)
    rng = np.random.default_rng(1)
    rows = {"left": rng.normal(size=(40, 8, 4)), "right": rng.normal(size=(40, 3))}
    np.savez(path.parent / "data.npz", **rows, y=np.zeros(7))  # of no use in --samples, and not read
    np.savez(path.parent / "eval.npz", **rows)
    return path


def test_several_inputs_and_outputs_of_no_classifier(cli: Cli, summing: Path, tmp_path: Path) -> None:
    data = summing.parent / "data.npz"
    result = cli(
        "convert", summing, "--samples", data, "--eval", data.with_name("eval.npz"), "--output", tmp_path / "out"
    )
    assert result.exit_code == 0
    assert "int8 error" in result.stdout
    report = report_of(tmp_path / "out")
    assert (report["accuracy"], report["agreement"]) == (None, None)
    assert 0 < report["relative_rmse"] < 0.05
    assert [stage["relative_rmse"] for stage in report["stages"]] == [0, report["relative_rmse"]]
    bundle = load_bundle(tmp_path / "out/out.edgekd")
    with np.load(data) as arrays:
        row = {name: arrays[name][:1].astype(np.float32) for name in ("left", "right")}
    answer = Engine(bundle).infer(row)
    assert {name: array.shape for name, array in answer.items()} == {"grid": (1, 4, 2), "total": (1, 1)}
    assert bundle.golden is not None
    assert set(bundle.golden.inputs) == {"left", "right"}


def test_two_samples_are_enough_for_every_stage(cli: Cli, pictures: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=pictures.images[:2])
    result = cli("convert", pictures.model, "--samples", tmp_path / "two.npz", "--output", tmp_path / "out")
    assert result.exit_code == 0
    golden = load_bundle(tmp_path / "out/out.edgekd").golden
    assert golden is not None
    assert len(golden) == 2


def test_what_is_for_classifiers_only(fails: Fails, summing: Path, tmp_path: Path) -> None:
    data = summing.parent / "data.npz"
    arguments = ["--samples", data, "--out-of-scope", data]
    assert "--out-of-scope is for classifiers" in fails(2, "convert", summing, *arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_eval_of_a_classifier_needs_labels(fails: Fails, pictures: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", x=pictures.images)
    arguments = ["--samples", pictures.samples, "--eval", tmp_path / "e.npz"]
    message = fails(2, "convert", pictures.model, *arguments, "--output", tmp_path / "out")
    assert (
        f"edgekd: {tmp_path / 'e.npz'}: --eval needs labels, an array 'y' of 3 classes; --metric agreement" in message
    )


@pytest.mark.parametrize("option", ["--samples", "--eval", "--out-of-scope"])
def test_data_that_do_not_fit(fails: Fails, pictures: Any, tmp_path: Path, option: str) -> None:
    np.savez(tmp_path / "bad.npz", image=pictures.images[..., :1], y=pictures.targets)
    arguments = {"--samples": pictures.samples, "--eval": pictures.eval, option: tmp_path / "bad.npz"}
    pairs = [part for pair in arguments.items() for part in pair]
    message = fails(2, "convert", pictures.model, *pairs, "--output", tmp_path / "out")
    assert message.startswith(f"edgekd: {tmp_path / 'bad.npz'}: 'image' must have shape [n, 12, 12, 3], not")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("a\nb\n", "gives [1, 3]; there are 2 labels"),
        ("a\n\nb\n", "labels must be one to a line, none empty, none twice"),
        ("a\nb\na\n", "none twice"),
        ("", "none empty"),
    ],
)
def test_labels_that_do_not_fit(fails: Fails, pictures: Any, tmp_path: Path, labels: str, words: str) -> None:
    model = copied(pictures, tmp_path / "in", labels)
    data = ["--samples", pictures.samples, "--output", tmp_path / "out"]
    assert words in fails(2, "convert", model, *data)
    model = copied(pictures, tmp_path / "bare")
    assert words in fails(2, "convert", model, "--labels", tmp_path / "in/labels.txt", *data)


def test_labels_that_are_not_text_or_not_there(fails: Fails, pictures: Any, tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(b"\xff\n")
    for name, words in (("labels", "utf-8"), ("none", "No such file"), ("", "Is a directory")):
        arguments = ["--samples", pictures.samples, "--labels", tmp_path / name, "--output", tmp_path / "out"]
        assert words in fails(2, "convert", pictures.model, *arguments)


def test_labels_belong_to_a_tflite(fails: Fails, student_folder: Path, task: Any, tmp_path: Path) -> None:
    arguments = ["--samples", task.train, "--labels", student_folder / "labels.txt", "--output", tmp_path / "out"]
    assert "--labels is for a model without names" in fails(2, "convert", student_folder, *arguments)


def test_each_kind_of_student_takes_its_kind_of_data(
    fails: Fails, pictures: Any, student_folder: Path, task: Any, tmp_path: Path
) -> None:
    output = ["--output", tmp_path / "out"]
    assert "or a folder, not .csv" in fails(2, "convert", pictures.model, "--samples", task.train, *output)
    assert "must be .csv or .jsonl, not .npz" in fails(
        2, "convert", student_folder, "--samples", pictures.samples, *output
    )


def test_a_tflite_that_cannot_be_used(fails: Fails, pictures: Any, pictured: Path, tmp_path: Path) -> None:
    data = ["--samples", pictures.samples, "--output", tmp_path / "out"]
    assert "no such file" in fails(2, "convert", tmp_path / "none.tflite", *data)
    (tmp_path / "a.tflite").write_bytes(b"no model")
    assert fails(1, "convert", tmp_path / "a.tflite", *data).startswith(f"edgekd: load: {tmp_path}/a.tflite: no model ")
    message = fails(1, "convert", pictured / "int8.tflite", *data)
    assert "the model is quantised already" in message
    assert not (tmp_path / "out").exists()


def test_an_input_without_a_batch_is_refused(fails: Fails, keras: Any, pictures: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    concrete = tf.function(lambda x: x * 2.0, input_signature=[tf.TensorSpec((5, 2), tf.float32, name="x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete.get_concrete_function()])
    (tmp_path / "five.tflite").write_bytes(converter.convert())
    message = fails(1, "convert", tmp_path / "five.tflite", "--samples", pictures.samples, "--output", tmp_path / "o")
    assert "input 'x' has a fixed batch of 5; export the model with a batch of 1" in message
