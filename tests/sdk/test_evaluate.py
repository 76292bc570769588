"""``edgekd evaluate``, ``compare`` and ``inspect``: every stage by the same figures; the gate of other tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgekd.verify import run_graph
from edgekd_converters.graph import read_graph
from edgekd_converters.load.keras_source import convert_keras

Cli = Callable[..., Result]
Fails = Callable[..., str]


@pytest.fixture(scope="module")
def stripes(cli: Cli, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of pictures, converted. Do not write into it."""
    folder = tmp_path_factory.mktemp("stripes") / "stripes"
    data = ["--samples", pictures.samples, "--eval", pictures.eval]
    assert cli("convert", pictures.model, *data, "--output", folder, "--quiet").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def ask(cli: Cli) -> Callable[..., dict[str, Any]]:
    def run(*arguments: object) -> dict[str, Any]:
        result = cli(*arguments, "--json")
        assert result.exit_code == 0, result.output
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    return run


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


@pytest.mark.parametrize(
    ("stage", "kind", "precision", "side"),
    [
        ("", "build", "int8", "int8"),
        ("stripes.edgekd", "bundle", "int8", "int8"),
        ("int8.tflite", "tflite", "int8", "int8"),
        ("float.tflite", "tflite", "float32", "float"),
    ],
)
def test_every_stage_scores_as_the_conversion_said(
    ask: Callable[..., Any], stripes: Path, pictures: Any, stage: str, kind: str, precision: str, side: str
) -> None:
    found = ask("evaluate", stripes / stage, "--data", pictures.eval)
    converted = report_of(stripes)
    assert (found["kind"], found["precision"], found["rows"]) == (kind, precision, 150)
    assert found["metrics"]["accuracy"] == converted["accuracy"][side]
    assert (found["bytes"], found["macs"]) == (converted["bytes"][side], converted["stages"][0]["macs"])
    assert found["sha256"] == converted["files"]["eval"]
    assert sum(one["right"] for one in found["classes"]) == round(found["metrics"]["accuracy"] * 150)
    assert sum(one["rows"] for one in found["classes"]) == 150
    assert found["invoke_us"] > 0


def test_a_student_of_texts_and_its_bundle(
    ask: Callable[..., Any], converted: Path, student_folder: Path, task: Any
) -> None:
    student = ask("evaluate", student_folder, "--data", task.eval)
    bundle = ask("evaluate", converted / "helpdesk.edgekd", "--data", task.eval)
    said = report_of(converted)["accuracy"]
    assert (student["kind"], student["precision"]) == ("student", "float32")
    assert student["metrics"]["accuracy"] == said["float"]
    assert bundle["metrics"]["accuracy"] == said["int8"]
    assert {one["label"] for one in bundle["classes"]} == {"order", "refund", "login"}
    bare = ask("evaluate", converted / "int8.tflite", "--data", task.eval)
    assert bare["metrics"] == bundle["metrics"], "it takes its preprocessing from the bundle beside it"


def test_the_table(cli: Cli, converted: Path, task: Any) -> None:
    result = cli("evaluate", converted, "--data", task.eval)
    assert result.exit_code == 0
    assert {"accuracy", "macro-f1", "build, int8"} <= {
        cell.strip() for cell in result.output.replace("│", "\n").split("\n")
    }
    assert cli("evaluate", converted, "--data", task.eval, "--quiet").output == ""


def test_two_side_by_side(ask: Callable[..., Any], stripes: Path, pictures: Any) -> None:
    found = ask("compare", stripes / "float.tflite", stripes, "--data", pictures.eval)
    converted = report_of(stripes)
    assert found["agreement"] == converted["agreement"]
    assert [found[side]["metrics"]["accuracy"] for side in ("first", "second")] == list(converted["accuracy"].values())
    assert found["flips"] == converted["flips"]
    assert found["first"]["bytes"] > found["second"]["bytes"]
    assert found["first"]["invoke_us"] > 0
    assert found["second"]["invoke_us"] > 0


def test_a_model_with_itself(ask: Callable[..., Any], cli: Cli, stripes: Path, pictures: Any) -> None:
    found = ask("compare", stripes, stripes / "int8.tflite", "--data", pictures.eval)
    assert (found["agreement"], found["flips"]["changed"]) == (1.0, 0)
    shown = cli("compare", stripes, stripes / "int8.tflite", "--data", pictures.eval).output
    assert "same answer" in shown
    assert "100.00 %" in shown
    assert "× 1.00" in shown


def test_comparing_goes_without_labels(
    ask: Callable[..., Any], fails: Fails, stripes: Path, pictures: Any, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", image=pictures.images)
    found = ask("compare", stripes / "float.tflite", stripes, "--data", tmp_path / "x.npz")
    assert found["agreement"] == report_of(stripes)["agreement"]
    assert (found["first"]["metrics"], found["flips"]["by_truth"]) == ({}, False)
    assert "compare' goes without" in fails(2, "evaluate", stripes, "--data", tmp_path / "x.npz")


def test_what_cannot_be_opened_or_compared(
    fails: Fails, stripes: Path, converted: Path, pictures: Any, task: Any, tmp_path: Path
) -> None:
    assert "no such file" in fails(2, "evaluate", tmp_path / "none", "--data", pictures.eval)
    assert "No such file" in fails(2, "evaluate", stripes, "--data", tmp_path / "none.npz")
    (tmp_path / "a.tflite").write_bytes(b"no model")
    assert "not a .tflite" in fails(2, "evaluate", tmp_path / "a.tflite", "--data", pictures.eval)
    (tmp_path / "a.edgekd").write_bytes(b"no bundle")
    assert "a.edgekd" in fails(1, "evaluate", tmp_path / "a.edgekd", "--data", pictures.eval)
    assert "eval.npz" in fails(2, "compare", stripes, converted, "--data", pictures.eval)


def test_inspect(cli: Cli, ask: Callable[..., Any], fails: Fails, stripes: Path, tmp_path: Path) -> None:
    report = report_of(stripes)
    assert ask("inspect", stripes) == report
    found = ask("inspect", stripes, "--layers")
    assert (found["layers"], found["culprits"]) == (report["layers"], report["culprits"])
    shown = cli("inspect", stripes, "--layers").output
    assert all(word in shown for word in ("SQNR", "recovers", "CONV_2D", "INPUT"))
    assert shown.count(" dB") >= len(report["layers"])
    assert "int8 accuracy" in cli("inspect", stripes).output
    assert "'edgekd convert' writes it" in fails(2, "inspect", tmp_path)


@pytest.fixture(scope="module")
def regressor(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums and differences of 20 numbers: ``x (n, 20)`` → ``(n, 3)`` of rank 3, so no classes; and data with y."""
    folder = tmp_path_factory.mktemp("regressor")
    keras.utils.set_random_seed(5)
    x = keras.Input((20,), name="x")
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3), keras.layers.Reshape((3, 1))]
    model = keras.Model(x, keras.Sequential(layers)(x))
    (folder / "model.tflite").write_bytes(convert_keras(model).content)
    rows = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    wanted = run_graph(read_graph((folder / "model.tflite").read_bytes()), {"x": rows})
    noise = np.random.default_rng(1).normal(0, 0.1, wanted.shape).astype(np.float32)
    np.savez(folder / "data.npz", x=rows, y=wanted + noise)
    np.savez(folder / "bare.npz", x=rows)
    np.savez(folder / "wrong.npz", x=rows, y=np.zeros((200, 2)))
    return folder


@pytest.fixture(scope="module")
def autoencoder(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 24 numbers that lie in a plane; odd rows lie outside. A flat one, which looks like a classifier."""
    folder = tmp_path_factory.mktemp("autoencoder")
    keras.utils.set_random_seed(6)
    rng = np.random.default_rng(2)
    plane = rng.normal(size=(4, 24)) / 2
    rows = (rng.normal(size=(400, 4)) @ plane).astype(np.float32)
    odd = np.arange(400) % 4 == 0
    x = keras.Input((24,), name="signal")
    model = keras.Model(x, keras.layers.Dense(24)(keras.layers.Dense(4)(x)))
    model.compile("adam", "mse")
    model.fit(rows, rows, epochs=60, batch_size=32, verbose=0)
    (folder / "model.tflite").write_bytes(convert_keras(model).content)
    marked = rows + odd[:, None] * rng.normal(0, 0.7, rows.shape)
    np.savez(folder / "samples.npz", signal=rows)
    np.savez(folder / "eval.npz", signal=marked.astype(np.float32), y=odd.astype(np.int64))
    return folder


class TestOtherTasks:
    def test_a_regressor_is_judged_by_its_squared_error(
        self, ask: Callable[..., Any], regressor: Path, tmp_path: Path
    ) -> None:
        data = ["--samples", regressor / "bare.npz", "--eval", regressor / "data.npz", "--max-drop", "0.5"]
        report = ask("convert", regressor / "model.tflite", *data, "--output", tmp_path / "out")
        assert (report["gate"]["metric"], report["gate"]["met"], report["flips"]) == ("mse", True, None)
        assert report["stages"][0]["mse"] == pytest.approx(0.01, rel=0.2)
        assert report["gate"]["drop"] == pytest.approx(report["gate"]["after"] / report["gate"]["before"] - 1)
        found = ask("evaluate", tmp_path / "out", "--data", regressor / "data.npz")
        assert found["metrics"]["mse"] == pytest.approx(report["gate"]["after"])

    def test_and_fails_by_it(self, fails: Fails, regressor: Path, tmp_path: Path) -> None:
        data = ["--samples", regressor / "bare.npz", "--eval", regressor / "data.npz", "--max-drop", "0"]
        message = fails(3, "convert", regressor / "model.tflite", *data, "--output", tmp_path / "out")
        assert "int8 raises mse by" in message
        assert "culprits" in message

    def test_without_values_by_its_distance_to_float(
        self, ask: Callable[..., Any], fails: Fails, regressor: Path, tmp_path: Path
    ) -> None:
        data = ["--samples", regressor / "bare.npz", "--eval", regressor / "bare.npz", "--max-drop"]
        report = ask("convert", regressor / "model.tflite", *data, "0.1", "--output", tmp_path / "out")
        assert report["gate"]["metric"] == "relative_rmse"
        assert report["gate"]["drop"] == report["gate"]["after"] == pytest.approx(report["relative_rmse"])
        message = fails(3, "convert", regressor / "model.tflite", *data, "0.0001", "--output", tmp_path / "no")
        assert "int8 raises relative-rmse by" in message

    def test_values_that_do_not_fit(self, fails: Fails, regressor: Path, tmp_path: Path) -> None:
        data = ["--samples", regressor / "bare.npz", "--eval", regressor / "wrong.npz"]
        message = fails(2, "convert", regressor / "model.tflite", *data, "--output", tmp_path / "out")
        assert "'y' must be numbers of shape [n, 3, 1], as the model gives, not [200, 2]" in message

    def test_an_autoencoder_is_judged_by_what_it_finds_odd(
        self, ask: Callable[..., Any], autoencoder: Path, tmp_path: Path
    ) -> None:
        data = ["--samples", autoencoder / "samples.npz", "--eval", autoencoder / "eval.npz", "--max-drop", "0.02"]
        report = ask("convert", autoencoder / "model.tflite", *data, "--output", tmp_path / "out")
        assert (report["gate"]["metric"], report["accuracy"], report["agreement"]) == ("auc", None, None)
        assert report["stages"][0]["auc"] > 0.9
        found = ask("compare", tmp_path / "out/float.tflite", tmp_path / "out", "--data", autoencoder / "eval.npz")
        assert found["second"]["metrics"]["auc"] == pytest.approx(report["gate"]["after"])
        assert set(found["second"]["metrics"]) == {"auc", "mse"}
        assert found["relative_rmse"] == pytest.approx(report["relative_rmse"], rel=1e-4)

    def test_a_classifier_by_another_metric(
        self, ask: Callable[..., Any], fails: Fails, pictures: Any, tmp_path: Path
    ) -> None:
        data = ["--samples", pictures.samples, "--eval", pictures.eval, "--max-drop", "0.1", "--output", tmp_path / "o"]
        report = ask("convert", pictures.model, *data, "--metric", "macro-f1")
        assert report["gate"]["metric"] == "macro_f1"
        assert report["gate"]["after"] == report["stages"][-1]["macro_f1"]
        assert "--metric mse cannot be measured here" in fails(2, "convert", pictures.model, *data, "--metric", "mse")

    def test_a_classifier_without_labels_by_agreement_if_asked(
        self, ask: Callable[..., Any], fails: Fails, pictures: Any, tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "x.npz", image=pictures.images)
        data = ["--samples", pictures.samples, "--eval", tmp_path / "x.npz", "--output", tmp_path / "o"]
        assert "--metric agreement goes without" in fails(2, "convert", pictures.model, *data)
        report = ask("convert", pictures.model, *data, "--metric", "agreement", "--max-drop", "0.1")
        assert report["gate"]["drop"] == pytest.approx(1 - report["agreement"])
        assert report["accuracy"] is None
