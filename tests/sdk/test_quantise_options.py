"""The options of ``edgekd convert`` that govern int8: what cannot work is said before any work is done."""

from collections.abc import Callable
from pathlib import Path

import pytest

Fails = Callable[..., str]
COMMAND = ("convert", "model.tflite", "--samples", "samples.npz", "--output", "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--qat-batch", 8], "--qat-batch needs --qat-steps"),
        (["--qat-learning-rate", 0.001], "--qat-learning-rate needs --qat-steps"),
        (["--calibrator", "mse", "--percentile", 99], "--percentile does nothing with --calibrator mse"),
    ],
)
def test_an_option_that_would_do_nothing(fails: Fails, options: list[object], message: str) -> None:
    assert message in fails(2, *COMMAND, *options)


def test_a_file_of_ranges_that_is_none(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_text('{"edgekd": "ranges", "schema_version": 1, "ranges": {"conv/out": [3, 1]}}')
    message = fails(2, *COMMAND, "--ranges", path)
    assert "ranges: " in message
    assert "'conv/out' is [3, 1]" in message
