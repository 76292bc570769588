"""``edgekd convert`` with ``--prune`` and ``--recover-steps``: smaller models, what is said of them, and refusals."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgekd import shrink
from edgekd.cli.convert import command
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.graph import read_graph
from edgekd_converters.integer import require_integer
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.recover import RecoverOptions
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine

Cli = Callable[..., Result]
Fails = Callable[..., str]
Convert = Callable[..., dict[str, Any]]
QUICK = ["--max-samples", 100]


@pytest.fixture
def convert(cli: Cli, pictures: Any, tmp_path: Path) -> Convert:
    """Convert the pictures' network with more options; gives the report."""

    def run(*options: object, folder: str = "out") -> dict[str, Any]:
        data = ["--samples", pictures.samples, "--eval", pictures.eval, *QUICK, "--name", "m"]
        result = cli("convert", pictures.model, *data, "--output", tmp_path / folder, "--json", *options)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    return run


@pytest.fixture
def recoveries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``recover`` is called with: (student, teacher, samples, options, labels)."""
    calls = []
    real = shrink.recover

    def spy(*arguments: Any) -> Any:
        calls.append(arguments[:5])
        return real(*arguments)

    monkeypatch.setattr(shrink, "recover", spy)
    return calls


def names(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(entry["stage"], entry["round"]) for entry in report["stages"]]


def test_prune_and_recover(convert: Convert, pictures: Any, tmp_path: Path, recoveries: list[Any]) -> None:
    report = convert("--prune", 0.5, "--recover-steps", 40)
    assert names(report) == [("loaded", 1), ("pruned", 1), ("recovered", 1), ("int8", 1)]
    loaded, pruned, recovered, int8 = report["stages"]
    graph = read_graph((tmp_path / "out/float.tflite").read_bytes())
    for entry in (pruned, recovered, int8):
        assert (entry["macs"], entry["parameters"]) == (count_macs(graph), count_parameters(graph))
        assert entry["macs"] <= 0.5 * loaded["macs"]
    assert (recovered["bytes"], int8["bytes"]) == (report["bytes"]["float"], report["bytes"]["int8"])
    assert int8["bytes"] < pruned["bytes"] < loaded["bytes"] == pictures.model.stat().st_size
    assert (loaded["agreement"], recovered["accuracy"]) == (1, report["accuracy"]["float"])
    assert recovered["accuracy"] > loaded["accuracy"] - 0.1
    assert recovered["agreement"] >= pruned["agreement"] - 0.05
    assert 0 < recovered["training"]["loss"] < 10
    assert 0 < recovered["training"]["teacher_agreement"] <= 1
    plan = pruned["plan"]
    assert plan["macs"] == {"before": loaded["macs"], "after": pruned["macs"]}
    assert plan["parameters"] == {"before": loaded["parameters"], "after": pruned["parameters"]}
    widths = {group["before"]: group["after"] for group in plan["groups"]}
    assert set(widths) == {16, 24, 32}
    assert any(after < before for before, after in widths.items())
    assert all(after % 8 == 0 for after in widths.values())
    assert report["gate"]["drop"] == pytest.approx(loaded["accuracy"] - int8["accuracy"])
    assert {"prune", "recover"} <= set(report["seconds"])
    require_integer(read_graph((tmp_path / "out/int8.tflite").read_bytes()))
    engine = Engine(load_bundle(tmp_path / "out/m.edgekd"))
    scores = np.concatenate([engine.infer({"image": part})["scores"] for part in np.array_split(pictures.images, 5)])
    assert (scores.argmax(1) == pictures.targets).mean() == int8["accuracy"]
    ((_, teacher, samples, options, labels),) = recoveries
    assert teacher.content == pictures.model.read_bytes()
    assert (len(samples["image"]), len(labels)) == (200, 200), "all rows, not only those of --max-samples"
    assert options == RecoverOptions(steps=40)


def test_rounds_share_the_way_and_the_steps(convert: Convert, recoveries: list[Any]) -> None:
    report = convert("--prune", 0.6, "--channel-multiple", 1, "--prune-rounds", 2, "--recover-steps", 5)
    assert names(report)[1:-1] == [("pruned", 1), ("recovered", 1), ("pruned", 2), ("recovered", 2)]
    assert [options.steps for *_, options, _ in recoveries] == [2, 3]
    loaded, first, _, second, _, int8 = report["stages"]
    left = [entry["macs"] / loaded["macs"] for entry in (first, second)]
    assert 0.4**0.5 - 0.1 < left[0] <= 0.4**0.5
    assert 0.3 < left[1] <= 0.4
    assert second["plan"]["macs"]["before"] == first["macs"]
    assert int8["macs"] == second["macs"]
    assert {"prune 1 of 2", "recover 2 of 2"} <= set(report["seconds"])


def test_a_round_with_nothing_left_to_do_is_left_out(convert: Convert) -> None:
    """Groups of 16 lose half or nothing: the first of many rounds goes further than it must."""
    report = convert("--prune", 0.1, "--prune-rounds", 5, "--channel-multiple", 8)
    assert 1 <= len(names(report)[1:-1]) < 5
    assert report["stages"][-1]["macs"] <= 0.9 * report["stages"][0]["macs"]


def test_recover_alone_and_under_another_teacher(
    convert: Convert, keras: Any, pictures: Any, tmp_path: Path, recoveries: list[Any]
) -> None:
    """A teacher that sees stripes everywhere makes the student see them everywhere; its names are its own."""
    picture = keras.Input((12, 12, 3), name="picture")
    same = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(0.0)(picture))
    dense = keras.layers.Dense(3, name="out")
    teacher = keras.Model(picture, dense(same))
    dense.set_weights([np.zeros((3, 3)), np.array([0, 9, 0])])
    (tmp_path / "teacher.tflite").write_bytes(convert_keras(teacher).content)
    np.savez(tmp_path / "unlabelled.npz", x=pictures.images)
    options = ["--recover-steps", 60, "--recover-batch", 32, "--recover-learning-rate", 0.01, "--hints", 0.1]
    report = convert(*options, "--teacher", tmp_path / "teacher.tflite", "--samples", tmp_path / "unlabelled.npz")
    assert names(report) == [("loaded", 1), ("recovered", 1), ("int8", 1)]
    loaded, recovered, _ = report["stages"]
    assert recovered["macs"] == loaded["macs"]
    assert recovered["training"]["teacher_agreement"] > 0.9
    assert recovered["accuracy"] < 0.6 < loaded["accuracy"]
    assert set(report["files"]) == {"samples", "eval", "student", "teacher"}
    ((_, _, _, given, labels),) = recoveries
    assert labels is None
    assert (given.batch, given.learning_rate, given.hints) == (32, 0.01, 0.1)


def test_options_reach_the_pruner(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = shrink.plan_pruning

    def spy(graph: Any, samples: Any, options: Any, advance: Any) -> Any:
        seen.append((len(samples["image"]), options))
        return real(graph, samples, options, advance)

    monkeypatch.setattr(shrink, "plan_pruning", spy)
    flags = ["--prune-uniform", "--importance", "weight", "--no-refit", "--channel-multiple", 4, "--seed", 7]
    report = convert("--prune", 0.4, *flags)
    ((rows, options),) = seen
    assert rows == 100
    assert options.amount == pytest.approx(0.4)
    assert (options.uniform, options.importance, options.refit) == (True, "weight", False)
    assert (options.multiple, options.seed) == (4, 7)
    plan = report["stages"][1]["plan"]
    assert all(group["sensitivity"] is None for group in plan["groups"])


def test_blocks_leave_whole(convert: Convert) -> None:
    report = convert("--prune", 0.3, "--prune-blocks", 1)
    loaded, pruned, _ = report["stages"]
    ((block,), groups) = (pruned["plan"][key] for key in ("blocks", "groups"))
    assert len(block["layers"]) == 2
    assert {group["before"] for group in groups} <= {16, 32}
    assert pruned["macs"] <= loaded["macs"] - block["macs"]


def test_a_dry_run_tries_blocks_as_the_conversion_will(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = shrink.decide_blocks

    def spy(*arguments: Any) -> Any:
        tried.append(real(*arguments))
        return tried[-1]

    monkeypatch.setattr(shrink, "decide_blocks", spy)
    plan = convert("--prune", 0.3, "--recover-steps", 1000, "--recover-batch", 32, "--dry-run")
    assert [one.blocks for one in tried] == [len(plan["blocks"])]


def test_a_seed_makes_it_repeat(convert: Convert, tmp_path: Path) -> None:
    options = ["--prune", 0.4, "--recover-steps", 8, "--augment", "flip, crop"]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert(*options, "--seed", seed, folder=folder)
    first, again, other = ((tmp_path / folder / "m.edgekd").read_bytes() for folder in "abc")
    assert first == again
    assert first != other


def test_the_table_has_a_line_for_every_stage(cli: Cli, pictures: Any, tmp_path: Path) -> None:
    data = ["--samples", pictures.samples, *QUICK, "--output", tmp_path / "out"]
    result = cli("convert", pictures.model, *data, "--prune", 0.4, "--prune-rounds", 2)
    assert result.exit_code == 0
    for words in ("loaded", "pruned 1", "pruned 2", "int8", "1,223,520 MACs", "12,139 parameters", "agreement"):
        assert words in result.stdout


class TestText:
    """The text student: its ids are pruned and trained on like any other tensors."""

    def test_prune_and_recover(
        self, cli: Cli, student_folder: Path, task: Any, tmp_path: Path, recoveries: list[Any]
    ) -> None:
        data = ["--samples", task.train, "--eval", task.eval, "--max-samples", 50, "--output", tmp_path / "out"]
        shrinking = ["--prune", 0.4, "--channel-multiple", 1, "--recover-steps", 20, "--teacher", student_folder]
        result = cli("convert", student_folder, *data, *shrinking, "--json")
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        loaded, pruned, recovered, _ = report["stages"]
        assert pruned["parameters"] <= 0.7 * loaded["parameters"]
        assert recovered["accuracy"] > 0.8
        ((_, _, samples, _, labels),) = recoveries
        assert (samples["ids"].shape, labels.shape) == ((90, 64), (90,))
        assert Engine(load_bundle(tmp_path / "out/out.edgekd")).classify("where is my parcel").in_scope

    def test_labels_are_used_only_if_there_are_any(
        self, cli: Cli, student_folder: Path, make_csv: Any, tmp_path: Path, recoveries: list[Any]
    ) -> None:
        rows = [("track my parcel " * 300,), ("money back",), ("reset password",)]  # the first is cut in training
        data = ["--samples", make_csv(tmp_path / "a.csv", rows, header=["text"]), "--seed", 1, "--max-samples", 1]
        result = cli("convert", student_folder, *data, "--recover-steps", 2, "--output", tmp_path / "out", "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        ((_, _, samples, _, labels),) = recoveries
        assert (len(samples["ids"]), labels) == (3, None)

    def test_a_tflite_can_teach_a_text_student(
        self, cli: Cli, student_folder: Path, converted: Path, task: Any, tmp_path: Path, recoveries: list[Any]
    ) -> None:
        data = ["--samples", task.foreign, "--recover-steps", 2, "--teacher", converted / "float.tflite"]
        assert cli("convert", student_folder, *data, "--output", tmp_path / "out", "--quiet").exit_code == 0
        ((_, teacher, *_),) = recoveries
        assert teacher.content == (converted / "float.tflite").read_bytes()

    def test_labels_of_training_must_be_the_students(
        self, fails: Fails, student_folder: Path, make_csv: Any, tmp_path: Path
    ) -> None:
        data = make_csv(tmp_path / "a.csv", [("hi", "order"), ("ho", "pizza")])
        arguments = ["--samples", data, "--recover-steps", 2, "--output", tmp_path / "out"]
        assert "the student has no label 'pizza'" in fails(2, "convert", student_folder, *arguments)

    def test_a_teacher_that_reads_otherwise(
        self, fails: Fails, student_folder: Path, task: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        for name in ("student.keras", "preprocess.json", "labels.txt"):
            (tmp_path / "other" / name).write_bytes((student_folder / name).read_bytes())
        spec = json.loads((tmp_path / "other/preprocess.json").read_text())
        (tmp_path / "other/preprocess.json").write_text(json.dumps({**spec, "buckets": 128}))
        arguments = ["--samples", task.train, "--recover-steps", 2, "--teacher", tmp_path / "other"]
        message = fails(2, "convert", student_folder, *arguments, "--output", tmp_path / "out")
        assert "its preprocessing and labels must be the student's own" in message


class TestDryRun:
    """``--dry-run``: the plan as a table or as JSON, and nothing on the disk."""

    def test_table(self, cli: Cli, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = cli("convert", pictures.model, "--samples", pictures.samples, "--prune", 0.5, "--dry-run", *QUICK)
        assert (result.exit_code, result.stderr) == (0, "")
        for word in ("group", "layers", "channels", "MACs saved", "sensitivity", "32 → ", "1,223,520 → ", "CONV_2D"):
            assert word in result.stdout
        assert not list(tmp_path.iterdir())

    def test_json(self, cli: Cli, convert: Convert, pictures: Any, tmp_path: Path) -> None:
        arguments = ["--samples", pictures.samples, "--prune", 0.5, "--dry-run", "--json", *QUICK]
        result = cli("convert", pictures.model, *arguments, "--output", tmp_path / "dry")
        assert (result.exit_code, result.stderr) == (0, "")
        plan = json.loads(result.stdout)
        assert (plan["edgekd"], plan["schema_version"], plan["amount"]) == ("prune plan", 2, 0.5)
        assert not (tmp_path / "dry").exists()
        assert convert("--prune", 0.5)["stages"][1]["plan"] == {
            key: plan[key] for key in ("blocks", "groups", "macs", "parameters", "notes")
        }
        saved = [group["macs"] for group in plan["groups"] if group["after"] < group["before"]]
        assert min(saved) > 0

    def test_quiet(self, cli: Cli, pictures: Any) -> None:
        arguments = ["--samples", pictures.samples, "--prune", 0.5, "--dry-run", "--quiet", *QUICK]
        result = cli("convert", pictures.model, *arguments)
        assert (result.exit_code, result.output) == (0, "")

    def test_it_needs_something_to_plan(self, fails: Fails, pictures: Any) -> None:
        arguments = ["--samples", pictures.samples, "--dry-run"]
        assert fails(2, "convert", pictures.model, *arguments) == "edgekd: --dry-run needs --prune\n"


def test_the_gate_counts_what_pruning_has_cost(fails: Fails, pictures: Any, tmp_path: Path) -> None:
    data = ["--samples", pictures.samples, "--eval", pictures.eval, *QUICK, "--output", tmp_path / "out"]
    pruning = ["--prune", 0.9, "--channel-multiple", 1, "--no-refit", "--importance", "weight"]
    message = fails(3, "convert", pictures.model, *data, *pruning, "--max-drop", 0.05)
    assert "gate: int8 loses" in message
    assert "% before quantising; culprits: " in message
    assert not (tmp_path / "out").exists()


def test_more_than_there_is_cannot_leave(fails: Fails, pictures: Any, tmp_path: Path) -> None:
    data = ["--samples", pictures.samples, *QUICK, "--output", tmp_path / "out"]
    assert fails(1, "convert", pictures.model, *data, "--prune", 0.999).startswith("edgekd: prune: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prune-uniform"], "--prune-uniform needs --prune"),
        (["--importance", "taylor"], "--importance needs --prune"),
        (["--prune-blocks", "auto"], "--prune-blocks needs --prune"),
        (["--prune-rounds", 2], "--prune-rounds needs --prune"),
        (["--no-refit"], "--no-refit needs --prune"),
        (["--channel-multiple", 8], "--channel-multiple needs --prune"),
        (["--recover-batch", 8], "--recover-batch needs --recover-steps"),
        (["--recover-learning-rate", 0.1], "--recover-learning-rate needs --recover-steps"),
        (["--recover-temperature", 2], "--recover-temperature needs --recover-steps"),
        (["--recover-alpha", 0.5], "--recover-alpha needs --recover-steps"),
        (["--hints", 0.5], "--hints needs --recover-steps"),
        (["--augment", "flip"], "--augment needs --recover-steps"),
        (["--teacher", "x.tflite"], "--teacher needs --recover-steps"),
        (
            ["--prune", 0.5, "--prune-rounds", 3, "--recover-steps", 2],
            "--recover-steps 2 cannot be split over 3 rounds",
        ),
        (["--recover-steps", 2, "--teacher", "none.tflite"], "none.tflite: No such file"),
    ],
)
def test_options_that_would_do_nothing(
    fails: Fails, pictures: Any, tmp_path: Path, options: list[Any], words: str
) -> None:
    arguments = ["convert", pictures.model, "--samples", pictures.samples, "--output", tmp_path / "out"]
    assert words in fails(2, *arguments, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--prune", 0],
        ["--prune", 1],
        ["--prune", -0.1],
        ["--prune", "nan"],
        ["--prune", "half"],
        ["--prune", 0.5, "--prune-rounds", 0],
        ["--prune", 0.5, "--prune-blocks", "-1"],
        ["--prune", 0.5, "--prune-blocks", "some"],
        ["--prune", 0.5, "--importance", "luck"],
        ["--prune", 0.5, "--channel-multiple", 0],
        ["--recover-steps", 0],
        ["--recover-steps", 1, "--recover-batch", 0],
        ["--recover-steps", 1, "--recover-learning-rate", 0],
        ["--recover-steps", 1, "--recover-temperature", 0],
        ["--recover-steps", 1, "--recover-alpha", 1.1],
        ["--recover-steps", 1, "--hints", -1],
        ["--recover-steps", 1, "--augment", "flip,blur"],
        ["--recover-steps", 1, "--augment", "flip,flip"],
        ["--recover-steps", 1, "--augment", ""],
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_values_that_are_none(cli: Cli, pictures: Any, tmp_path: Path, options: list[Any]) -> None:
    result = cli("convert", pictures.model, "--samples", pictures.samples, "--output", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '{options[-2]}'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_is_needed(fails: Fails, pictures: Any) -> None:
    assert "--output is missing" in fails(2, "convert", pictures.model, "--samples", pictures.samples)


def test_augmentation_needs_images(fails: Fails, student_folder: Path, task: Any, tmp_path: Path) -> None:
    arguments = ["--samples", task.train, "--recover-steps", 2, "--augment", "flip", "--output", tmp_path / "out"]
    assert "--augment is for images" in fails(2, "convert", student_folder, *arguments)


def test_a_teacher_of_another_shape(fails: Fails, keras: Any, pictures: Any, tmp_path: Path) -> None:
    image = keras.Input((12, 12, 3), name="image")
    four = keras.layers.Dense(4, name="scores")(keras.layers.GlobalAveragePooling2D()(image))
    (tmp_path / "four.tflite").write_bytes(convert_keras(keras.Model(image, four)).content)
    arguments = ["--samples", pictures.samples, "--recover-steps", 2, "--teacher", tmp_path / "four.tflite"]
    message = fails(2, "convert", pictures.model, *arguments, "--output", tmp_path / "out")
    assert "--teacher gives 'scores' FLOAT32 [1, 4]; the student gives 'scores' FLOAT32 [1, 3]" in message


def test_the_commands_defaults_are_the_trainers() -> None:
    defaults = {parameter.name: parameter.default for parameter in command.params}
    chosen = {name.removeprefix("recover_"): value for name, value in defaults.items() if name}
    trainers = RecoverOptions(steps=1)
    shared = ("batch", "learning_rate", "temperature", "alpha", "hints")
    assert replace(trainers, **{name: chosen[name] for name in shared}) == trainers
