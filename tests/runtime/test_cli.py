"""Exit codes and output of the command line, without starting processes (tests/device does that)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekd_runtime import cli, timing
from edgekd_runtime.bundle import Bundle


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(one) for one in arguments])


@pytest.fixture
def without_golden(bundle: Bundle, tmp_path: Path) -> Path:
    replace(bundle, golden=None, threshold=1.0, answers={}).save(tmp_path / "b.edgekd")
    return tmp_path / "b.edgekd"


def test_bench_needs_something_to_run(without_golden: Path) -> None:
    done = run("bench", without_golden)
    assert done.exit_code == 2
    assert "give a FILE, or --text to a bundle of texts" in done.stderr
    table = run("bench", without_golden, "--text", "hello", "--runs", "10")
    assert table.exit_code == 0
    assert [line.split()[0] for line in table.stdout.splitlines()[2:]] == ["preprocess", "invoke", "classify"]


@pytest.mark.parametrize("verb", ["infer", "bench"])
@pytest.mark.parametrize(
    ("shape", "said"), [((0, 4), "has a batch of 0"), ((), "must have shape"), ((0, 5), "must have shape")]
)
def test_tensors_without_a_row(
    dense_bundle: Bundle, tmp_path: Path, verb: str, shape: tuple[int, ...], said: str
) -> None:
    dense_bundle.save(tmp_path / "dense.edgekd")
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    done = run(verb, tmp_path / "dense.edgekd", tmp_path / "x.npy")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_infer_says_when_nothing_fits(without_golden: Path) -> None:
    done = run("infer", without_golden, "--text", "hello", "--top-k", "2")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 3
    assert "out of scope" in done.stdout
    answer = json.loads(run("infer", without_golden, "--text", "hello", "--json").stdout)
    assert answer["in_scope"] is False
    assert "answers" not in answer


def test_info_for_people(bundle: Bundle, bundle_path: Path) -> None:
    done = run("info", bundle_path)
    assert done.exit_code == 0
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert facts["name"] == bundle.name
    assert facts["labels"].startswith(f"{len(bundle.labels)}: {bundle.labels[0]}, ")
    assert int(facts["xnnpack_ops"]) > 0


def test_a_damaged_bundle_is_one_line(bundle_path: Path, tmp_path: Path) -> None:
    content = bytearray(bundle_path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.edgekd").write_bytes(content)
    done = run("info", tmp_path / "bad.edgekd")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("edgekd-runtime: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer", "x"],
        ["infer", "x", "a.png", "--text", "a"],
        ["bench", "x", "a.png", "--text", "a"],
        ["infer", "x", "--text", "a", "--top-k", "0"],
        ["infer", "x", "--text", "a", "--threads", "0"],
        ["infer", "x", "--text", "a", "--backend", "torch"],
        ["bench", "x", "--runs", "9"],
        ["serve", "x", "--port", "65536"],
        ["serve", "x", "--max-body", "0"],
        ["nothing"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_percentiles() -> None:
    ordered = list(range(1, 101))
    assert [timing._percentile(ordered, p) for p in (50, 90, 99)] == [51, 91, 100]
    assert timing._percentile([7], 99) == 7
