"""What is measured on the board, which of it is best, and when it is believed later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekd_runtime import cli, timing, tune
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.cli_common import Opening
from edgekd_runtime.signing import ANYBODY
from edgekd_runtime.tune import Measured, Setting, Tuned

MODEL = "ab" * 32


@pytest.fixture
def path(tmp_path: Path, int8_dense: bytes) -> Path:
    bundle = Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"})
    bundle.save(tmp_path / "dense.edgekd")
    return tmp_path / "dense.edgekd"


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_settings_never_ask_for_more_than_the_cores() -> None:
    assert tune.settings(1) == [Setting(1, 1)]
    four = tune.settings(4)
    assert set(four) == {
        *[Setting(1, w) for w in (1, 2, 3, 4)],
        Setting(2, 1),
        Setting(2, 2),
        Setting(3, 1),
        Setting(4, 1),
    }
    assert len(four) == len(set(four))


def test_the_best_is_the_least_of_those_that_are_as_good() -> None:
    tuned = Tuned(
        (
            Measured(Setting(1, 1), 1000, 1000),
            Measured(Setting(2, 1), 604, 1640),
            Measured(Setting(1, 2), 1000, 1900),
            Measured(Setting(4, 1), 600, 1660),
            Measured(Setting(2, 2), 604, 1950),
        )
    )
    assert tuned.best("latency") == Setting(2, 1)
    assert tuned.best("throughput") == Setting(1, 2)


def test_a_large_model_is_measured_with_workers_and_a_small_one_without(
    path: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Opening(ANYBODY)(path).bundle
    for size_us, workers in ((1.0, {1}), (1e6, {1, 2})):
        monkeypatch.setattr(timing, "answer_us", lambda engine, size_us=size_us: size_us)
        steps: list[None] = []
        tuned = tune.measure(bundle, seconds=0.01, done=lambda steps=steps: steps.append(None))
        assert {one.setting.workers for one in tuned.measured} == workers
        assert len(steps) <= tune.steps()
        assert all(one.p50_us > 0 and one.per_second > 0 for one in tuned.measured)


def test_what_was_kept_is_believed_only_where_it_was_measured(
    tmp_path: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.edgekd"
    tuned = Tuned((Measured(Setting(2, 1), 10, 20), Measured(Setting(1, 2), 15, 30)))
    assert tune.load(path, MODEL, "auto") is None
    assert tune.save(path, MODEL, "auto", tuned)
    assert tune.load(path, MODEL, "auto") == tune.load(path, MODEL, "litert") == tuned
    assert tune.load(path, "cd" * 32, "auto") is None
    with monkeypatch.context() as other:
        other.setattr(tune, "_board", lambda: "another board")
        assert tune.load(path, MODEL, "auto") is None
    with monkeypatch.context() as other:
        other.setattr(tune, "installed", lambda backend: ("litert", "9.9"))
        assert tune.load(path, MODEL, "auto") is None
    with monkeypatch.context() as other:
        other.setattr(os, "sched_getaffinity", lambda _: {0})
        assert tune.load(path, MODEL, "auto") is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace('"threads": 2', '"threads": 99'),
        lambda text: text.replace('"threads": 2', '"threads": "2"'),
        lambda text: text.replace('"threads": 2', '"threads": 2.0'),
        lambda text: text.replace('"threads": 2', '"threads": true').replace('"workers": 1', '"workers": 2'),
        *(
            lambda text, figure=figure, number=number: text.replace(f'"{figure}": ', f'"{figure}": {number}, "x": ')
            for figure in ("p50_us", "per_second")
            for number in ("0", "-1", "NaN", "Infinity", "1" + "0" * 400)
        ),
        lambda text: text.replace('"p50_us"', '"p51_us"'),
        lambda text: text[: text.index('"measured"')] + '"measured": []}',
        lambda text: "[" * 100_000,
    ],
)
def test_a_file_that_is_damaged_is_as_none(tmp_path: Path, two_cores: None, edit: Callable[[str], str]) -> None:
    path = tmp_path / "a.edgekd"
    tune.save(path, MODEL, "auto", Tuned((Measured(Setting(2, 1), 10, 20),)))
    file = tune.path_beside(path)
    file.write_text(edit(file.read_text()))
    assert tune.load(path, MODEL, "auto") is None


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekd_runtime.atomic.write_bytes", full)


def test_a_place_that_cannot_be_written_to_is_no_error(path: Path, full_disk: None) -> None:
    done = run("tune", path, "--seconds", "0.01")
    assert done.exit_code == 0
    assert "not written" in done.stdout
    assert not tune.path_beside(path).exists()


def test_the_command_keeps_what_later_starts_use(path: Path, two_cores: None) -> None:
    report = json.loads(run("tune", path, "--seconds", "0.01", "--json").stdout)[0]
    assert report["written"] == str(tune.path_beside(path))
    assert report["best"]["latency"]["workers"] == 1
    digest = Opening(ANYBODY)(path).model_sha256
    tune.save(path, digest, "auto", Tuned((Measured(Setting(2, 1), 10, 20), Measured(Setting(1, 2), 15, 30))))
    for opening, threads, workers in (
        (Opening(ANYBODY), 2, 1),
        (Opening(ANYBODY, goal="throughput"), 1, 2),
        (Opening(ANYBODY, threads=1), 1, 1),
        (Opening(ANYBODY, workers=2), 1, 2),
    ):
        engine = opening(path)
        assert (engine.threads, len(engine.pool)) == (threads, workers)
    facts = json.loads(run("info", path, "--json").stdout)
    assert facts["tuned"] == {"latency": {"threads": 2, "workers": 1}, "throughput": {"threads": 1, "workers": 2}}


def test_a_start_measures_only_where_nothing_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[object] = []

    def measure(bundle: Bundle, **_: object) -> Tuned:
        measured.append(bundle)
        return Tuned((Measured(Setting(1, 1), 10, 20),))

    monkeypatch.setattr(tune, "measure", measure)
    for _ in range(2):
        assert len(Opening(ANYBODY, tunes=True)(path).pool) == 1
    assert len(measured) == 1


def test_a_start_says_when_it_cannot_keep_what_it_measured(
    path: Path, full_disk: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tune, "measure", lambda *_, **__: Tuned((Measured(Setting(1, 1), 10, 20),)))
    Opening(ANYBODY, tunes=True)(path)
    assert caplog.messages == [
        f"{tune.path_beside(path)} cannot be written, so it will be measured again at every load"
    ]
