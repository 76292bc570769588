"""``edgekd-runtime`` as the processes a user starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd_runtime import __version__
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def only_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_infer_prints_what_the_engine_says(cli: Cli, bundle: Bundle, bundle_path: Path, engine: Engine) -> None:
    assert bundle.golden is not None
    text = bundle.golden.texts[1]
    done = cli("infer", bundle_path, "--text", text, "--json", "--top-k", "2")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    expected = engine.classify(text, 2)
    assert answer["label"] == expected.label
    assert answer["score"] == pytest.approx(expected.score, abs=0.02)
    assert [one["label"] for one in answer["labels"]] == [label for label, _ in expected.top]
    assert answer["in_scope"] is expected.in_scope
    assert answer.get("answers", {}) == dict(expected.answers)


def test_infer_for_people_names_the_label_first(cli: Cli, bundle: Bundle, bundle_path: Path, engine: Engine) -> None:
    assert bundle.golden is not None
    text = bundle.golden.texts[0]
    done = cli("infer", bundle_path, "--text", text, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == engine.classify(text).label


def test_infer_refuses_an_empty_text(cli: Cli, bundle_path: Path) -> None:
    done = cli("infer", bundle_path, "--text", " ")
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty" in only_line(done.stderr)


@pytest.mark.parametrize("verb", ["infer", "info", "bench", "serve"])
def test_a_missing_bundle_is_one_line(cli: Cli, tmp_path: Path, verb: str) -> None:
    extra = {"infer": ["--text", "hello"], "serve": ["--port", "0"]}.get(verb, [])
    done = cli(verb, tmp_path / "none.edgekd", *extra)
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.edgekd: no such file" in only_line(done.stderr)


def test_info(cli: Cli, bundle: Bundle, bundle_path: Path, engine: Engine) -> None:
    done = cli("info", bundle_path, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["name"] == bundle.name
    assert facts["precision"] == "int8"
    assert facts["labels"] == list(bundle.labels)
    assert facts["model_bytes"] == len(bundle.model)
    assert facts["xnnpack_ops"] == engine.backend.delegated_ops
    assert facts["golden_samples"] >= 8
    assert facts["input_shapes"] == {spec.name: list(spec.shape) for spec in engine.inputs}


def test_bench(cli: Cli, bundle_path: Path) -> None:
    done = cli("bench", bundle_path, "--runs", "20", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["runs"], figures["unit"]) == (20, "us")
    for stage in ("preprocess", "invoke", "classify"):
        assert 0 < figures[stage]["p50"] <= figures[stage]["p90"] <= figures[stage]["p99"]
    assert figures["classify"]["p50"] > figures["preprocess"]["p50"]


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__)
