"""``edgekd export``, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import Result

from edgekd import export as exporting
from edgekd_converters.errors import ExportError

Cli = Callable[..., Result]
Fails = Callable[..., str]


def test_a_tflite_as_onnx_with_samples(cli: Cli, pictures: Any, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "stripes.onnx"
    result = cli("export", pictures.model, "--to", "onnx", "--output", output, "--samples", pictures.samples, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["format"], report["target"], report["batch"]) == ("tflite", "onnx", None)
    assert report["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 12, 12, 3]}]
    assert report["samples"] == {"file": str(pictures.samples), "rows": 32}
    assert report["equivalence"]["loaded"]["equal"]
    assert 0 <= report["equivalence"]["written"]["max_difference"] < 1e-4
    (scores,) = onnxruntime.InferenceSession(output).run(None, {"image": pictures.images})
    assert (scores.argmax(1) == pictures.targets).mean() > 0.8
    assert [path.name for path in output.parent.iterdir()] == ["stripes.onnx"]


def test_a_student_folder_as_savedmodel_on_texts(
    cli: Cli, fails: Fails, student_folder: Path, task: Any, tmp_path: Path
) -> None:
    output = tmp_path / "saved"
    arguments = ["export", student_folder, "--to", "savedmodel", "--output", output]
    result = cli(*arguments, "--samples", task.eval, "--max-samples", 5)
    assert result.exit_code == 0
    assert "5 rows of eval.csv" in result.stdout
    (output / "old").touch()
    assert cli(*arguments, "--quiet").output == ""
    assert not (output / "old").exists()  # the folder was replaced as a whole
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    back = cli("export", output, "--to", "tflite", "--output", tmp_path / "back.tflite", "--json")
    assert json.loads(back.stdout)["inputs"] == [{"name": "ids", "dtype": "int32", "shape": [1, 64]}]


def test_what_differs_is_not_written(
    fails: Fails, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: Any) -> Any:
        raise ExportError("the onnx that was written gives another output 'scores'")

    monkeypatch.setattr(exporting, "export", differs)
    message = fails(1, "export", pictures.model, "--to", "onnx", "--output", tmp_path / "x.onnx")
    assert message == "edgekd: export: the onnx that was written gives another output 'scores'\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["image", "image=", "=1,2", "image=1,x", "image=1,0", "image=1,-2"])
def test_a_shape_that_is_none(cli: Cli, pictures: Any, tmp_path: Path, value: str) -> None:
    result = cli("export", pictures.model, "--to", "onnx", "--output", tmp_path / "x", "--shape", value)
    assert result.exit_code == 2
    assert "is not a name and sizes, such as input=1,128" in result.stderr


def test_usage_errors(fails: Fails, pictures: Any, tmp_path: Path) -> None:
    start = ["export", pictures.model, "--to"]
    assert "is a folder; name the file" in fails(2, *start, "onnx", "--output", tmp_path)
    (tmp_path / "file").touch()
    assert "is not a SavedModel folder" in fails(2, *start, "savedmodel", "--output", tmp_path / "file")
    assert "is not a SavedModel folder" in fails(2, *start, "savedmodel", "--output", tmp_path)
    missing = ["onnx", "--output", tmp_path / "x", "--samples", tmp_path / "none.npz"]
    assert "No such file" in fails(2, *start, *missing)
    assert "no such file" in fails(2, "export", tmp_path / "none", "--to", "onnx", "--output", tmp_path / "x")
    np.savez(tmp_path / "bad.npz", image=pictures.images[..., :1])
    wrong = fails(2, *start, "onnx", "--output", tmp_path / "x", "--samples", tmp_path / "bad.npz")
    assert "'image' must have shape" in wrong
    assert "the model has no such input" in fails(1, *start, "onnx", "--output", tmp_path / "x", "--shape", "other=1,2")
    assert not (tmp_path / "x").exists()
