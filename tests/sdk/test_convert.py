"""``edgekd convert`` from end to end: the bundle, the report, the gate, the refusals, and a death half way."""

import hashlib
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

from edgekd import pipeline, scope
from edgekd.report.describe import describe_origin
from edgekd.samples import read_text_data
from edgekd.student import open_student
from edgekd.verify import Run
from edgekd_converters import optimise
from edgekd_converters.calibrate import Ranges
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.integer import require_integer
from edgekd_converters.quantize import quantize_int8
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import GoldenError

Cli = Callable[..., Result]
Fails = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def test_six_files(converted: Path) -> None:
    expected = {"float.tflite", "int8.tflite", "helpdesk.edgekd", "report.json", "report.html", "ranges.json"}
    assert set(contents(converted)) == expected
    bundle = load_bundle(converted / "helpdesk.edgekd")
    assert bundle.model == (converted / "int8.tflite").read_bytes()
    require_integer(read_graph(bundle.model))
    float_graph = read_graph((converted / "float.tflite").read_bytes())
    assert {tensor.dtype for tensor in float_graph.tensors} & {"INT8"} == set()


def test_the_report(converted: Path, student_folder: Path, task: Any) -> None:
    report = report_of(converted)
    assert (report["edgekd"], report["schema_version"], report["name"]) == ("conversion", 2, "helpdesk")
    assert (report["precision"], report["integer_op_fraction"]) == ("int8", 1.0)
    for side in ("float", "int8"):
        assert report["bytes"][side] == (converted / f"{side}.tflite").stat().st_size
        assert report["invoke_us"][side] > 0
        assert report["accuracy"][side] >= 0.9
    assert report["ops"] == [op.name for op in read_graph((converted / "int8.tflite").read_bytes()).ops]
    assert report["judged_on"] == {"file": "eval", "rows": 30}
    assert report["calibration_samples"] == 90
    assert 0.9 <= report["agreement"] <= 1
    layers = report["layers"]
    assert report["worst_layer"] == layers[0]
    errors = [layer["relative_rmse"] for layer in layers]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[0] < 0.1
    assert {"GATHER", "SUM", "MUL", "FULLY_CONNECTED"} <= {layer["op"] for layer in layers}
    drop = report["accuracy"]["float"] - report["accuracy"]["int8"]
    assert (report["gate"]["metric"], report["gate"]["max_drop"], report["gate"]["met"]) == ("accuracy", 0.2, True)
    assert report["gate"]["drop"] == pytest.approx(drop, abs=1e-12)
    assert report["files"]["samples"] == hashlib.sha256(task.train.read_bytes()).hexdigest()
    assert report["files"]["eval"] == hashlib.sha256(task.eval.read_bytes()).hexdigest()
    assert report["files"]["student"] == hashlib.sha256((student_folder / "student.keras").read_bytes()).hexdigest()
    assert report["out_of_scope"]["in_scope_accepted"] >= 0.95
    assert 0 <= report["out_of_scope"]["out_of_scope_rejected"] <= 1
    assert {"load", "quantise", "verify"} <= set(report["seconds"])
    assert report["quantising"]["held_out"] > 0
    assert [stage["invoke_us"] for stage in report["stages"]] == list(report["invoke_us"].values())
    assert report["command"][:3] == ["edgekd", "convert", str(student_folder)]
    assert report["command"][-3:] == ["--max-drop", "0.2", "--quiet"]


def test_the_report_says_how_the_student_was_distilled(converted: Path, student_folder: Path, task: Any) -> None:
    origin = report_of(converted)["distilled"]
    assert origin["command"][:4] == ["edgekd", "distill", "--data", str(task.train)]
    assert {"python", "edgekd", "tensorflow"} <= set(origin["versions"])
    assert (origin["teacher"], origin["teacher_bytes"], origin["teacher_accuracy"]) == (None, None, None)


@pytest.mark.parametrize(("same", "wanted"), [(True, 0.9), (False, None)])
def test_a_teachers_accuracy_counts_on_the_same_rows_only(
    student_folder: Path, tmp_path: Path, same: bool, wanted: float | None
) -> None:
    folder = copy(student_folder, tmp_path / "s")
    record = json.loads((folder / "distill.json").read_text("utf-8"))
    record |= {"teacher": {"name": "big", "weights_bytes": 7, "answer_ms": 2.5}, "accuracy": {"teacher_eval": 0.9}}
    (folder / "distill.json").write_text(json.dumps(record))
    files = {"eval": record["evaluation"]["sha256"] if same else "another"}
    origin = describe_origin(open_student(folder), files)
    assert origin is not None
    assert (origin["teacher"], origin["teacher_bytes"], origin["teacher_answer_ms"]) == ("big", 7, 2.5)
    assert origin["teacher_accuracy"] == wanted


@pytest.mark.parametrize("record", ["{}", '{"teacher": "x", "accuracy": 3, "evaluation": [], "versions": null}'])
def test_a_record_made_by_hand_breaks_no_report(student_folder: Path, tmp_path: Path, record: str) -> None:
    folder = copy(student_folder, tmp_path / "s")
    (folder / "distill.json").write_text(record)
    origin = describe_origin(open_student(folder), {})
    assert origin is None or [origin["teacher"], origin["teacher_accuracy"], origin["versions"]] == [None, None, {}]


def test_the_bundle_answers_on_the_device_runtime(converted: Path, student_folder: Path, task: Any) -> None:
    bundle = load_bundle(converted / "helpdesk.edgekd")
    engine = Engine(bundle)
    assert (bundle.name, bundle.version, bundle.precision) == ("helpdesk", "1", "int8")
    assert bundle.labels == open_student(student_folder).labels
    assert bundle.golden is not None
    assert len(bundle.golden) == 16
    assert set(bundle.golden.texts) <= set(read_text_data(task.train, "text", None).texts)
    data = read_text_data(task.eval, "text", "label")
    found = [engine.classify(text) for text in data.texts]
    right = np.mean([one.label == label for one, label in zip(found, data.labels, strict=True)])
    report = report_of(converted)
    assert right == report["accuracy"]["int8"]
    accepted = np.mean([one.in_scope for one in found])
    assert accepted == report["out_of_scope"]["in_scope_accepted"]
    assert bundle.threshold == report["out_of_scope"]["threshold"]
    (order, *_) = (one for one in found if one.label == "order" and one.in_scope)
    assert order.answers == {"en": "Look under My Orders.", "zh": "请看我的订单。"}
    assert all(one.answers == {} for one in found if one.label != "order")


def test_the_engine_accepts_what_the_threshold_was_measured_on(converted: Path) -> None:
    engine = Engine(load_bundle(converted / "helpdesk.edgekd"))
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits = rng.normal(size=(40, 3)).astype(np.float32)
        bounds = scope.measure(logits, None)
        scores = np.array([engine.rank(row, 1).score for row in logits])
        assert (scores >= bounds.threshold).mean() == bounds.in_scope_accepted


def test_the_least_that_is_needed(cli: Cli, student_folder: Path, task: Any, tmp_path: Path) -> None:
    result = cli("convert", student_folder, "--samples", task.foreign, "--output", tmp_path / "out", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report == report_of(tmp_path / "out")
    assert report["accuracy"] is None
    assert report["out_of_scope"] is None
    assert (report["gate"]["metric"], report["gate"]["max_drop"]) == ("agreement", None)
    assert report["gate"]["drop"] == pytest.approx(1 - report["agreement"])
    assert report["judged_on"] == {"file": "samples", "rows": 2}
    bundle = load_bundle(tmp_path / "out/out.edgekd")
    assert (bundle.threshold, bundle.answers) == (None, {})
    assert Engine(bundle).classify("where is my parcel").in_scope


def test_name_version_and_a_table_for_people(cli: Cli, student_folder: Path, task: Any, tmp_path: Path) -> None:
    names = ["--name", "desk", "--model-version", "2.1", "--max-samples", 7]
    arguments = ["convert", student_folder, "--samples", task.train, "--eval", task.eval, "--output", tmp_path / "o"]
    result = cli(*arguments, *names)
    assert result.exit_code == 0
    for word in ("bundle desk", "int8 accuracy", "agreement", "worst layer error", "100.00 %"):
        assert word in result.stdout
    bundle = load_bundle(tmp_path / "o/desk.edgekd")
    assert (bundle.name, bundle.version) == ("desk", "2.1")
    assert report_of(tmp_path / "o")["calibration_samples"] == 7


def test_converting_twice_gives_the_same_bytes(cli: Cli, student_folder: Path, task: Any, tmp_path: Path) -> None:
    arguments = ["convert", student_folder, "--samples", task.train, "--max-samples", 20, "--name", "m", "--quiet"]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert cli(*arguments, "--seed", seed, "--output", tmp_path / folder).output == ""
    first, again, other = (contents(tmp_path / folder)["m.edgekd"] for folder in "abc")
    assert first == again
    assert first != other


class TestGate:
    """``--max-drop``: exit code 3, the numbers and the layer at fault in the message, nothing on disk."""

    @pytest.fixture
    def terrible_ranges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def terrible(graph: Graph, ranges: Ranges) -> Graph:
            (summed,) = (op.outputs[0].name for op in graph.ops if op.name == "SUM")
            return quantize_int8(graph, {**ranges, summed: (0.0, 1e-6)})

        monkeypatch.setattr(optimise, "quantize_int8", terrible)

    def test_a_bad_int8_model_is_not_written(
        self, fails: Fails, student_folder: Path, task: Any, tmp_path: Path, terrible_ranges: None
    ) -> None:
        arguments = ["convert", student_folder, "--samples", task.train, "--eval", task.eval, "--max-drop", "0.05"]
        message = fails(3, *arguments, "--output", tmp_path / "out")
        found = re.search(
            r"loses ([\d.]+) % .*\(([\d.]+) % → ([\d.]+) %\).*culprits: (\w+) '(\S+)' "
            r"\(([\d.]+) % of the error, by its output's range\)",
            message,
        )
        assert found
        drop, before, after = (float(number) for number in found.groups()[:3])
        assert drop == pytest.approx(before - after, abs=0.011)
        assert drop > 20
        assert (found[4], float(found[6]) > 90) == ("SUM", True)
        assert "--max-drop 0.05" in message
        assert not (tmp_path / "out").exists()

    def test_an_older_bundle_stays(
        self, fails: Fails, cli: Cli, student_folder: Path, task: Any, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        arguments = ["convert", student_folder, "--samples", task.train, "--eval", task.eval]
        arguments += ["--output", tmp_path / "out", "--max-drop", "0.05"]
        assert cli(*arguments, "--quiet").exit_code == 0
        before = contents(tmp_path / "out")
        request.getfixturevalue("terrible_ranges")
        fails(3, *arguments)
        assert contents(tmp_path / "out") == before

    def test_without_a_limit_the_gate_is_open(
        self, cli: Cli, student_folder: Path, task: Any, tmp_path: Path, terrible_ranges: None
    ) -> None:
        arguments = ["convert", student_folder, "--samples", task.train, "--eval", task.eval]
        assert cli(*arguments, "--output", tmp_path / "out", "--quiet").exit_code == 0
        report = report_of(tmp_path / "out")
        assert report["accuracy"]["int8"] < report["accuracy"]["float"]
        assert report["gate"]["max_drop"] is None
        assert report["gate"]["drop"] == pytest.approx(report["accuracy"]["float"] - report["accuracy"]["int8"])
        assert report["worst_layer"]["relative_rmse"] > 0.5

    @pytest.mark.parametrize(
        ("right", "limit", "code"),
        [
            ((92, 92), "0", 0),
            ((92, 95), "0", 0),
            ((92, 91), "0.0099", 3),
            ((92, 91), "0.01", 0),  # though 0.92 - 0.91 > 0.01 in floating point
            ((92, 90), "0.01", 3),
        ],
    )
    def test_the_limit_itself_is_allowed(
        self,
        cli: Cli,
        make_csv: Callable[..., Path],
        student_folder: Path,
        task: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        right: tuple[int, int],
        limit: str,
        code: int,
    ) -> None:
        evaluation = make_csv(tmp_path / "eval.csv", [(f"parcel {i}", "order") for i in range(100)])
        order = open_student(student_folder).labels.index("order")

        def answers(count: int) -> Any:
            logits = np.zeros((100, 3), np.float32)
            logits[:count, order] = 1
            logits[count:, order - 1] = 1
            return logits

        monkeypatch.setattr(pipeline, "side_by_side", lambda *_: [Run(answers(right[k]), 1.0) for k in (0, 1)])
        arguments = ["convert", student_folder, "--samples", task.train, "--eval", evaluation, "--max-drop", limit]
        assert cli(*arguments, "--output", tmp_path / "out").exit_code == code

    def test_it_needs_labelled_data(self, fails: Fails, student_folder: Path, task: Any, tmp_path: Path) -> None:
        arguments = ["convert", student_folder, "--samples", task.train, "--output", tmp_path / "out"]
        assert "--max-drop needs --eval" in fails(2, *arguments, "--max-drop", "0.01")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("limit", ["-0.1", "1.1", "x", "nan", "inf"])
    def test_a_limit_that_is_none_is_refused(
        self, cli: Cli, student_folder: Path, task: Any, tmp_path: Path, limit: str
    ) -> None:
        arguments = ["convert", student_folder, "--samples", task.train, "--eval", task.eval]
        assert cli(*arguments, "--output", tmp_path / "out", "--max-drop", limit).exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "option", "words"),
    [
        ("a.csv", "text\n" + "word " * 1000 + "\n", "--samples", "has 4999 characters; at most 4096"),
        ("a.csv", "text\nhello\n\n\U0001f44d\n", "--samples", "'\U0001f44d': the text is empty or holds no letters"),
        ("a.csv", "text\nhello\n  \n", "--samples", "line 3: column 'text' is empty"),
        ("a.csv", "text\n", "--samples", "the file holds no rows"),
        ("a.csv", "q\nhello\n", "--samples", "there is no column 'text'; the columns are: q"),
        ("a.csv", "text\nhello\n", "--eval", "there is no column 'label'; the columns are: text"),
        ("a.csv", "text,label\nhi,order\nho,pizza\n", "--eval", "the student has no label 'pizza'"),
        ("a.csv", "text,label\nhi,order\n???\n", "--eval", "line 3: column 'label' is empty"),
        ("a.csv", "text\n...\n", "--out-of-scope", "no letters"),
        ("a.json", "{", "--answers", "not JSON"),
        ("a.json", "[]", "--answers", "label → language → text"),
        ("a.json", '{"order": "hi"}', "--answers", "label → language → text"),
        ("a.json", '{"order": {"en": 1}}', "--answers", "every language and answer must be a text"),
        ("a.json", '{"pizza": {"en": "hi"}}', "--answers", "the student has no label 'pizza'"),
        (None, None, "--samples", "No such file"),
        (None, None, "--eval", "No such file"),
        (None, None, "--out-of-scope", "No such file"),
        (None, None, "--answers", "No such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    fails: Fails,
    student_folder: Path,
    task: Any,
    tmp_path: Path,
    name: str | None,
    content: str | None,
    option: str,
    words: str,
) -> None:
    path = tmp_path / (name or "none.csv")
    if content is not None:
        path.write_text(content, "utf-8")
    arguments = ["convert", student_folder, "--output", tmp_path / "out", option, path]
    if option != "--samples":
        arguments += ["--samples", task.train]
    message = fails(2, *arguments)
    assert words in message
    assert str(path) in message
    assert not (tmp_path / "out").exists()


def test_a_student_that_is_not_there(fails: Fails, task: Any, tmp_path: Path) -> None:
    arguments = ["--samples", task.train, "--output", tmp_path / "out"]
    assert "no such file or folder" in fails(2, "convert", tmp_path / "none", *arguments)
    (tmp_path / "empty").mkdir()
    assert "student.keras is missing" in fails(2, "convert", tmp_path / "empty", *arguments)


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for name, data in contents(source).items():
        (target / name).write_bytes(data)
    return target


def copy_without_record(source: Path, target: Path) -> Path:
    """A student folder as a user may make it by hand: no distill.json that says what the files must be."""
    copy(source, target)
    (target / "distill.json").unlink()
    return target


def test_a_broken_model_names_its_stage(fails: Fails, student_folder: Path, task: Any, tmp_path: Path) -> None:
    folder = copy_without_record(student_folder, tmp_path / "s")
    (folder / "student.keras").write_bytes(b"no model")
    message = fails(1, "convert", folder, "--samples", task.train, "--output", tmp_path / "out")
    assert message.startswith("edgekd: load: ")
    assert "no model that can be opened" in message


def test_preprocessing_of_another_length_does_not_fit(
    fails: Fails, student_folder: Path, task: Any, tmp_path: Path
) -> None:
    folder = copy_without_record(student_folder, tmp_path / "s")
    spec = json.loads((folder / "preprocess.json").read_text())
    (folder / "preprocess.json").write_text(json.dumps({**spec, "length": 32}))
    message = fails(2, "convert", folder, "--samples", task.train, "--output", tmp_path / "out")
    assert "takes [(1, 64)]; preprocess.json makes (1, 32)" in message


@pytest.mark.parametrize(
    "buckets",
    [100_000, 128, 64],  # 64 is the length, and so the rows of the other table
)
def test_preprocessing_of_other_buckets_does_not_fit(
    fails: Fails, student_folder: Path, task: Any, tmp_path: Path, buckets: int
) -> None:
    folder = copy_without_record(student_folder, tmp_path / "s")
    spec = json.loads((folder / "preprocess.json").read_text())
    (folder / "preprocess.json").write_text(json.dumps({**spec, "buckets": buckets}))
    message = fails(2, "convert", folder, "--samples", task.train, "--output", tmp_path / "out")
    assert f"has no embedding of {buckets} rows" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--name", "../evil"), ("--name", "my model"), ("--model-version", "1 beta")]
)
def test_a_name_that_no_bundle_can_have_writes_nothing(
    cli: Cli, student_folder: Path, task: Any, tmp_path: Path, option: str, value: str
) -> None:
    arguments = ["convert", student_folder, "--samples", task.train, "--output", tmp_path / "out", option, value]
    result = cli(*arguments)
    assert result.exit_code in (1, 2)
    assert repr(value) in result.stderr
    assert "letters, digits" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "answers",
    ['{"order": {"en": "a \\ud800 b"}}', '{"order": {"\\ud800": "a b"}}', '{"order": {"\\ud83d": "\\ude00"}}'],
    ids=["text", "language", "one-half-each"],
)
def test_half_a_character_in_an_answer(
    fails: Fails, student_folder: Path, task: Any, tmp_path: Path, answers: str
) -> None:
    (tmp_path / "answers.json").write_text(answers)
    arguments = ["convert", student_folder, "--samples", task.train, "--answers", tmp_path / "answers.json"]
    message = fails(2, *arguments, "--output", tmp_path / "out")
    assert "answers.json" in message
    assert "whole characters" in message


def test_a_bundle_that_does_not_open_does_not_replace_a_good_one(
    fails: Fails, converted: Path, student_folder: Path, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = copy(converted, tmp_path / "helpdesk")

    def fail(*_: Any, **__: Any) -> None:
        raise GoldenError("answers otherwise")

    monkeypatch.setattr(pipeline, "Engine", fail)
    before = contents(output)
    arguments = ["convert", student_folder, "--samples", task.train, "--model-version", "9", "--output", output]
    assert "answers otherwise" in fails(1, *arguments)
    assert contents(output) == before


def test_an_output_that_is_a_file_is_refused(fails: Fails, student_folder: Path, task: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    message = fails(2, "convert", student_folder, "--samples", task.train, "--output", tmp_path / "out")
    assert f"--output {tmp_path / 'out'}" in message
    assert (tmp_path / "out").read_text() == "mine"


# Converts once, then forks children that convert again, each to be killed: at its n-th write to the disk, or by the
# clock. After every death the folder must hold one whole bundle, the old one or a new one.
_DIE = """
import os, random, signal, sys, time
from pathlib import Path
student, samples, output = map(Path, sys.argv[1:4])
from edgekd import pipeline
from edgekd.options import ConvertOptions
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine

real, opened = pipeline.open_source, []

def open_once(options, stages):
    if not opened:
        opened.append(real(options, stages))
    return opened[0]

pipeline.open_source = open_once

def convert(version):
    pipeline.convert(ConvertOptions(student, samples, output, version=version, max_samples=20))

def die_at(call):
    done = 0
    def counted(real):
        def wrapper(*args, **kwargs):
            nonlocal done
            done += 1
            if done == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return wrapper
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)

convert("old")
start = time.perf_counter()
convert("old")
took = time.perf_counter() - start
rng = random.Random(int(sys.argv[4]))
moments = [("call", n) for n in range(1, 9)] + [("clock", rng.uniform(0, took)) for _ in range(8)]
deaths = 0
for i, (kind, moment) in enumerate(moments):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        if kind == "call":
            die_at(moment)
        convert(f"new-{i}")
        os._exit(0)
    if kind == "clock":
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM), "the child hung"
    deaths += os.WIFSIGNALED(status)
    (path,) = output.glob("*.edgekd")
    bundle = load_bundle(path)
    Engine(bundle)
    assert bundle.version == "old" or bundle.version.startswith("new-")
    for name in ("int8.tflite", "float.tflite"):
        assert (output / name).read_bytes()[4:8] == b"TFL3"
print("deaths", deaths)
"""


def test_a_death_half_way_leaves_a_bundle_that_loads(student_folder: Path, task: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DIE, str(student_folder), str(task.train), str(tmp_path / "out")]
    done = subprocess.run([*command, "7"], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    deaths = int(done.stdout.split()[-1])
    assert deaths >= 8, "most children must have been killed before they were done"
