"""``edgekd distill`` from end to end: what it writes, that it repeats, and how it refuses."""

import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgekd.distill.teachers import KerasTeacher
from edgekd.distill.train import train
from edgekd.errors import DataError, EdgekdError
from edgekd.student import open_student

Cli = Callable[..., Result]
Fails = Callable[..., str]
FILES = {"student.keras", "preprocess.json", "labels.txt", "distill.json"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> list[Any]:
    import keras

    found: list[Any] = keras.models.load_model(folder / "student.keras").get_weights()
    return found


def test_the_folder_that_is_written(student_folder: Path, task: Any) -> None:
    assert set(contents(student_folder)) == FILES
    student = open_student(student_folder)
    assert student.labels == ("login", "order", "refund")
    assert (student.preprocess.buckets, student.preprocess.length) == (256, 64)
    assert open_student(student_folder / "student.keras") == student
    report = json.loads((student_folder / "distill.json").read_text("utf-8"))
    assert report["edgekd"] == "student"
    assert report["data"]["file"] == "train.csv"
    assert (report["data"]["rows"], report["evaluation"]["rows"], report["classes"]) == (90, 30, 3)
    assert report["options"]["teacher"] == "none"
    assert report["options"]["student"]["buckets"] == 256
    assert report["options"]["training"]["epochs"] == 6
    assert report["options"]["training"]["seed"] == 0
    assert report["teacher"] is None
    assert report["accuracy"]["teacher_eval"] is None
    assert report["accuracy"]["student_eval"] >= 0.9
    assert 1 <= report["best_epoch"] <= 6
    assert len(report["holdout_history"]) == 6
    assert report["parameters"] == 256 * 8 + 64 + 8 * 3 + 3
    assert {"tensorflow", "keras", "numpy", "edgekd", "python"} <= set(report["versions"])


def test_the_reported_accuracy_is_that_of_the_saved_model(student_folder: Path, task: Any) -> None:
    import keras

    from edgekd.samples import read_text_data

    student, data = open_student(student_folder), read_text_data(task.eval, "text", "label")
    logits = keras.models.load_model(student.model)(np.stack([student.preprocess(text) for text in data.texts]))
    measured = float((np.asarray(logits).argmax(1) == data.targets(student.labels)).mean())
    report = json.loads((student_folder / "distill.json").read_text("utf-8"))
    assert report["accuracy"]["student_eval"] == measured


def test_the_padding_row_of_the_saved_model_is_zero(student_folder: Path) -> None:
    (table,) = (array for array in weights(student_folder) if array.shape == (256, 8))
    assert not table[0].any()
    assert np.abs(table[1:]).max() > 0.02


def test_one_seed_one_student(cli: Cli, task: Any, small: list[str], student_folder: Path, tmp_path: Path) -> None:
    arguments = ["distill", "--data", task.train, "--eval", task.eval, *small, "--quiet", "--output"]
    assert cli(*arguments, tmp_path / "again").exit_code == 0
    assert cli(*arguments, tmp_path / "other", "--seed", 1).exit_code == 0
    first, again, other = (weights(folder) for folder in (student_folder, tmp_path / "again", tmp_path / "other"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    labels = [(folder / "labels.txt").read_bytes() for folder in (student_folder, tmp_path / "again")]
    assert labels[0] == labels[1] == b"login\norder\nrefund\n"


def test_json_for_machines(cli: Cli, task: Any, small: list[str], tmp_path: Path) -> None:
    result = cli("distill", "--data", task.train, "--output", tmp_path / "s", *small, "--epochs", 1, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "s/distill.json").read_text("utf-8"))
    others = {name: content for name, content in contents(tmp_path / "s").items() if name != "distill.json"}
    assert report["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in others.items()}
    assert result.stdout.count("\n") == 1


def test_a_table_for_people(cli: Cli, task: Any, small: list[str], tmp_path: Path) -> None:
    arguments = ["distill", "--data", task.train, "--eval", task.eval, "--output", tmp_path / "s", *small]
    result = cli(*arguments, "--epochs", 1)
    assert result.exit_code == 0
    for word in ("student accuracy", "held-out accuracy", "at epoch 1 of 1", "parameters", "2,139"):
        assert word in result.stdout


def test_a_teacher_is_asked_once_and_then_remembered(
    cli: Cli, task: Any, small: list[str], own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that knows the answers; the second run must not compute its logits again."""

    def know(self: KerasTeacher, lesson: Any, texts: Any, advance: Any) -> Any:
        assert len(lesson.texts) == 90
        assert len(texts) == 120
        truth = dict(zip(lesson.texts, lesson.targets, strict=True))
        return np.stack([8 * np.eye(3, dtype=np.float32)[truth.get(text, 0)] for text in texts])

    monkeypatch.setattr(KerasTeacher, "compute", know)
    arguments = ["distill", "--data", task.train, "--eval", task.eval, *small, "--teacher", "keras", "--output"]
    result = cli(*arguments, tmp_path / "first")
    assert "from the cache" not in result.stdout
    monkeypatch.delattr(KerasTeacher, "compute")
    result = cli(*arguments, tmp_path / "second")
    assert "from the cache" in result.stdout
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    report = json.loads((tmp_path / "second/distill.json").read_text("utf-8"))
    assert report["teacher"]["name"] == "keras"
    assert report["teacher"]["weights_bytes"] > 1_000_000
    assert report["teacher"]["answer_ms"] > 0
    assert 0.3 <= report["accuracy"]["teacher_eval"] < 0.6


def test_refit_trains_again_on_all_rows_for_as_long_as_was_best(
    cli: Cli, task: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[dict[str, Any]] = []

    def spied(model: Any, split: Any, holdout: Any, options: Any, on_epoch: Any, stop_after: int | None = None) -> Any:
        notes: list[str] = []
        trained = train(model, split, holdout, options, notes.append, stop_after)
        held = holdout and len(holdout.ids)
        run = {"rows": len(split.ids), "held": held, "epochs": len(notes), "options": options}
        runs.append({**run, "weights": model.get_weights()})
        return trained

    monkeypatch.setattr("edgekd.distill.run.train", spied)
    scores = itertools.cycle([0.5, 1.0, 1.0, 0.9, 0.9, 0.9])  # of the six epochs, the third is the one to keep
    monkeypatch.setattr("edgekd.distill.train.accuracy", lambda *_: next(scores))
    arguments = ["distill", "--data", task.train, *small, "--quiet"]
    for name in ("refit", "no-refit"):
        assert cli(*arguments, f"--{name}", "--output", tmp_path / name).exit_code == 0
    chosen, refitted, alone = runs
    assert [(run["rows"], run["held"], run["epochs"]) for run in runs] == [(81, 9, 6), (90, None, 3), (81, 9, 6)]
    assert chosen["options"] == refitted["options"], "the same schedule, cut short"
    folders = [tmp_path / "refit", tmp_path / "no-refit"]
    for folder, run in zip(folders, (refitted, alone), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(weights(folder), run["weights"], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(*map(weights, folders), strict=True))
    reports = [json.loads((folder / "distill.json").read_text("utf-8")) for folder in folders]
    assert [report["options"]["refit"] for report in reports] == [True, False]
    for report in reports:
        assert report["best_epoch"] == 3
        assert report["holdout_history"] == [0.5, 1.0, 1.0, 0.9, 0.9, 0.9]
        assert report["accuracy"]["student_holdout"] == 1.0


def test_whole_numbers_are_labels(cli: Cli, small: list[str], tmp_path: Path) -> None:
    lines = [json.dumps({"q": f"{word} {i}", "y": y}) for i in range(8) for y, word in enumerate(("parcel", "refund"))]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    columns = ["--text-column", "q", "--label-column", "y", "--epochs", 1]
    assert (
        cli("distill", "--data", tmp_path / "data.jsonl", "--output", tmp_path / "s", *small, *columns).exit_code == 0
    )
    assert (tmp_path / "s/labels.txt").read_text() == "0\n1\n"


ROWS = [("where is it", "a"), ("money back", "b"), ("the parcel", "a"), ("a refund", "b")]


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        (None, [], "no-such.csv: No such file"),
        ([("hi", "a"), ("ho", "a")], [], "all rows carry the label 'a'"),
        ([("hi", "a"), ("", "b")], [], "line 3: column 'text' is empty"),
        (ROWS, ["--text-column", "utterance"], "there is no column 'utterance'; the columns are: text, label"),
        (ROWS, ["--label-column", "intent"], "there is no column 'intent'; the columns are: text, label"),
        (ROWS, ["--teacher", "nosuch"], "--teacher 'nosuch'"),
        (ROWS, ["--eval", "no-such-eval.csv"], "no-such-eval.csv: No such file"),
        ([("hi", "a"), ("ho", "b")], [], "--holdout 0.1 leaves nothing"),
        ([*ROWS, ("hey", "two\nlines")], [], "label 'two\\nlines' holds a line break"),
        ([*ROWS, ("\U0001f44d", "a")], [], "no letters, digits or characters"),
    ],
    ids=[
        "missing",
        "one-label",
        "empty-text",
        "text-column",
        "label-column",
        "teacher",
        "eval",
        "holdout",
        "break",
        "emoji",
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    fails: Fails,
    make_csv: Callable[..., Path],
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: Any,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_csv(tmp_path / "data.csv", rows) if rows else tmp_path / "no-such.csv"
    before = contents(tmp_path)
    assert words in fails(2, "distill", "--data", data, "--output", tmp_path / "student", *small, *arguments)
    assert contents(tmp_path) == before
    assert not (tmp_path / "student").exists()


def test_labels_of_eval_must_be_known(
    fails: Fails, make_csv: Callable[..., Path], task: Any, small: list[str], tmp_path: Path
) -> None:
    strange = make_csv(tmp_path / "strange.csv", [("hi", "order"), ("ho", "pizza")])
    arguments = ["distill", "--data", task.train, "--eval", strange, "--output", tmp_path / "s", *small]
    assert "label 'pizza' does not occur in the training data" in fails(2, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--buckets", "1"],
        ["--alpha", "1.5"],
        ["--holdout", "0"],
        ["--seed", "-1"],
        ["--student", "x"],
        *(
            [option, value]
            for option in (
                "--alpha",
                "--dropout",
                "--token-dropout",
                "--holdout",
                "--temperature",
                "--learning-rate",
            )
            for value in ("nan", "inf")
        ),
    ],
    ids="=".join,
)
def test_options_out_of_range_are_usage_errors(
    cli: Cli, task: Any, small: list[str], tmp_path: Path, arguments: tuple[str, str]
) -> None:
    result = cli("distill", "--data", task.train, "--output", tmp_path / "s", *small, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert not (tmp_path / "s").exists()


def test_a_real_process_ends_with_one_line_and_no_traceback(task: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from edgekd.cli import main; main()", "distill", "--data", str(task.train)]
    command += ["--output", str(tmp_path / "s"), "--teacher", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edgekd: --teacher")
    assert done.stderr.count("\n") == 1


def test_a_failure_leaves_an_older_student_alone(
    fails: Fails, cli: Cli, task: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "student"
    arguments = ["distill", "--data", task.train, "--output", folder, *small, "--epochs", 1]
    assert cli(*arguments, "--quiet").exit_code == 0
    before = contents(folder)

    def fail(*_: Any) -> None:
        raise EdgekdError("the teacher is ill")

    monkeypatch.setattr(KerasTeacher, "compute", fail)
    assert "ill" in fails(1, *arguments, "--teacher", "keras", "--seed", 77)
    monkeypatch.setattr("edgekd.distill.run.train", fail)
    assert "ill" in fails(1, *arguments, "--seed", 78)
    assert contents(folder) == before


def failing_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the disk be full when the ``call``-th file is to be written."""
    from edgekd_runtime import atomic

    write, calls = atomic.write_bytes, 0

    def limited(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(atomic, "write_bytes", limited)


def test_a_full_disk_is_one_line(
    fails: Fails, task: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_at(monkeypatch, 1)
    message = fails(2, "distill", "--data", task.train, "--output", tmp_path / "s", *small, "--epochs", 1)
    assert "No space left on device" in message


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_disk_that_fills_half_way_does_not_mix_two_students(
    fails: Fails,
    cli: Cli,
    task: Any,
    make_csv: Callable[..., Path],
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
) -> None:
    """What was there stays, or the folder is known to be written only in part."""
    folder = tmp_path / "student"
    assert cli("distill", "--data", task.train, "--output", folder, *small, "--epochs", 1, "--quiet").exit_code == 0
    before = contents(folder)
    failing_at(monkeypatch, call)
    fails(2, "distill", "--data", make_csv(tmp_path / "b.csv", ROWS * 3), "--output", folder, *small, "--epochs", 1)
    if call == 1:
        assert contents(folder) == before
    else:
        with pytest.raises(DataError, match=r"student\.keras is not the one that distill\.json was written with"):
            open_student(folder)


def test_an_output_that_is_a_file_is_refused(fails: Fails, task: Any, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    message = fails(2, "distill", "--data", task.train, "--output", tmp_path / "s", *small, "--epochs", 1)
    assert f"--output {tmp_path / 's'}" in message
    assert (tmp_path / "s").read_text() == "mine"


@pytest.mark.parametrize("name", ["text", "label"])
def test_half_a_character_is_bad_data(fails: Fails, small: list[str], tmp_path: Path, name: str) -> None:
    rows = [{"text": f"hello {i}", "label": "ab"[i % 2]} for i in range(8)]
    rows[0][name] = "a\ud800b"
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["distill", "--data", tmp_path / "data.jsonl", "--output", tmp_path / "s", *small, "--teacher", "keras"]
    if name == "label":
        arguments += ["--teacher", "none"]
    fails(2, *arguments)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"], ids=ascii)
def test_a_label_is_one_line_or_refused(
    cli: Cli, make_csv: Callable[..., Path], small: list[str], tmp_path: Path, separator: str
) -> None:
    data = make_csv(tmp_path / "data.csv", [("where is it", f"a{separator}b"), ("money back", "c")] * 4)
    result = cli("distill", "--data", data, "--output", tmp_path / "s", *small, "--epochs", 1)
    assert result.exit_code == 2 or open_student(tmp_path / "s").labels == (f"a{separator}b", "c")


def test_a_training_that_diverges_is_a_failure(fails: Fails, task: Any, small: list[str], tmp_path: Path) -> None:
    arguments = ["distill", "--data", task.train, "--output", tmp_path / "s", *small, "--learning-rate", "1e30"]
    assert re.search(r"training diverged in epoch \d; take a smaller --learning-rate", fails(1, *arguments))
    assert not (tmp_path / "s").exists()


def test_rows_longer_than_a_server_takes_are_trained_on(
    cli: Cli, make_csv: Callable[..., Path], small: list[str], tmp_path: Path
) -> None:
    data = make_csv(tmp_path / "data.csv", [("word " * 2000, "a"), ("money back", "b")] * 3)
    assert cli("distill", "--data", data, "--output", tmp_path / "s", *small, "--epochs", 1).exit_code == 0


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for name, data in contents(source).items():
        (target / name).write_bytes(data)
    return target


@pytest.mark.parametrize("name", sorted(FILES - {"distill.json"}))
def test_a_file_that_is_not_the_one_of_the_record_is_refused(
    fails: Fails, task: Any, student_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = copy(student_folder, tmp_path / "student")
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")  # still a zip, JSON, three labels
    arguments = ["convert", folder, "--samples", task.train, "--output", tmp_path / "out"]
    if name == "labels.txt":
        (folder / name).write_text("order\nlogin\nrefund\n")  # as many, in another order
    message = fails(2, *arguments)
    assert f"{folder}: {name} is not the one that distill.json was written with" in message
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="is not the one"):
        open_student(folder / "student.keras")
    (folder / "distill.json").unlink()
    assert open_student(folder).model == folder / "student.keras", "without the record it is the user's own"


def test_a_record_without_hashes_vouches_for_nothing(student_folder: Path, tmp_path: Path) -> None:
    folder = copy(student_folder, tmp_path / "student")
    (folder / "distill.json").write_text("{}")
    assert open_student(folder).labels == open_student(student_folder).labels


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[" * 100_000,
        '{"files": {"student.json": ""}}',
        "[]",
        '{"files": []}',
        '{"files": null}',
    ],
    ids=["cut", "deep", "no-such-file", "list", "list-of-files", "null"],
)
def test_a_damaged_record_is_refused(student_folder: Path, tmp_path: Path, record: str) -> None:
    folder = copy(student_folder, tmp_path / "student")
    (folder / "distill.json").write_text(record)
    with pytest.raises(DataError) as caught:
        open_student(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "labels.txt").unlink(), "labels.txt is missing"),
        (lambda folder: (folder / "preprocess.json").unlink(), "preprocess.json is missing"),
        (lambda folder: (folder / "student.keras").unlink(), "student.keras is missing"),
        (lambda folder: (folder / "preprocess.json").write_text("{"), "Expecting"),
        (lambda folder: (folder / "preprocess.json").write_text("[]"), "must hold an object"),
        (lambda folder: (folder / "labels.txt").write_text("a\n\nb\n"), "one to a line"),
        (lambda folder: (folder / "labels.txt").write_text("a\nb\na\n"), "none twice"),
        (lambda folder: (folder / "labels.txt").write_bytes(b"\xff\n"), "utf-8"),
        (lambda folder: (folder / "labels.txt").write_text("a\nb\n"), "gives [(1, 3)]; labels.txt has 2 labels"),
    ],
    ids=["no-labels", "no-preprocess", "no-model", "bad-json", "list", "blank", "twice", "latin", "too-few"],
)
def test_a_damaged_student_folder_is_refused(
    fails: Fails,
    task: Any,
    student_folder: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    words: str,
) -> None:
    folder = copy(student_folder, tmp_path / "student")
    (folder / "distill.json").unlink()
    damage(folder)
    assert words in fails(2, "convert", folder, "--samples", task.train, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
