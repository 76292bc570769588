"""Exit codes and output of the command line; most without starting processes (tests/device does that)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.runtime.live import connected
from tests.runtime.waiting import soon

from edgekd_runtime import cli, timing
from edgekd_runtime.bundle import Bundle

TIMEOUT_S = 60


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
    assert "kind: text-ngram; version: 1; " in facts["preprocess"]
    assert not {"layouts", "signed_by", "tuned"} & set(facts)
    assert not set("{}'") & set(done.stdout)


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
        ["serve", "x", "--deadline-ms", "nan"],
        ["serve", "x", "--rate-limit", "nan"],
        ["tune", "x", "--seconds", "nan"],
        ["nothing"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_percentiles() -> None:
    ordered = list(range(1, 101))
    assert [timing._percentile(ordered, p) for p in (50, 90, 99)] == [51, 91, 100]
    assert timing._percentile([7], 99) == 7


def process(*arguments: str | Path, shell: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """The command as a process, whose streams are redirected as ``shell`` says."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-m", "edgekd_runtime", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_one_line(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    for arguments in (["--help"], ["info", bundle_path], ["infer", bundle_path, "--text", "hello", "--json"]):
        done = process(*arguments, shell="> /dev/full")
        assert done.returncode == 1
        assert done.stderr == b"edgekd-runtime: standard output: No space left on device\n"


def test_other_faults_of_the_system_are_not_taken_for_that(monkeypatch: pytest.MonkeyPatch, bundle_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("edgekd_runtime.bundle.load_bundle", fail)
    done = run("info", bundle_path)
    assert isinstance(done.exception, OSError)
    assert "standard output" not in done.stderr


def test_any_encoding_of_standard_output(bundle: Bundle, tmp_path: Path) -> None:
    answers = {label: {"zh": "在那里。"} for label in bundle.labels}
    path = tmp_path / "zh.edgekd"
    replace(bundle, answers=answers, threshold=None).save(path)
    text = process("infer", path, "--text", "hello", encoding="latin-1")
    assert (text.returncode, text.stderr, text.stdout.splitlines()[-1]) == (0, b"", b"[zh] ????")
    machine = process("infer", path, "--text", "hello", "--json", encoding="latin-1")
    assert json.loads(machine.stdout)["answers"] == {"zh": "在那里。"}
    tuned = process("tune", path, "--seconds", "0.01", encoding="latin-1")
    assert (tuned.returncode, tuned.stderr) == (0, b"")


@pytest.mark.parametrize("shell", ["2>&-", ">&- 2>&- <&-"])
def test_closed_streams(bundle_path: Path, shell: str) -> None:
    assert process("info", bundle_path, shell=shell).returncode == 0
    assert process("info", bundle_path.with_name("none.edgekd"), shell=shell).returncode == 1


@pytest.mark.parametrize("stream", ["full", "a closed pipe", "no standard error"])
def test_a_server_serves_whoever_reads_what_it_says(dense_bundle: Bundle, tmp_path: Path, stream: str) -> None:
    dense_bundle.save(tmp_path / "dense.edgekd")
    reading, writing = os.pipe()
    os.close(reading)
    with Path("/dev/full").open("wb") as full:
        server = subprocess.Popen(
            [sys.executable, "-m", "edgekd_runtime", "serve", "dense.edgekd", "--port", "0", "--uds", "socket"],
            cwd=tmp_path,
            stdout=full if stream == "full" else writing,
            preexec_fn=partial(os.close, 2) if stream == "no standard error" else None,
        )
    os.close(writing)
    try:
        assert soon(lambda: is_healthy(tmp_path / "socket"))
        server.send_signal(signal.SIGTERM)
        assert server.wait(TIMEOUT_S) == 0
    finally:
        server.kill()
        server.wait()


def is_healthy(path: Path) -> bool:
    try:
        with connected(str(path)) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return sock.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def test_without_click_it_says_what_is_missing() -> None:
    program = "import sys; sys.modules['click'] = None; from edgekd_runtime.cli import main"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("edgekd-runtime: the command needs click")


def test_help_loads_no_command_and_says_what_they_say() -> None:
    program = "import sys; from edgekd_runtime.cli import main; main(['--help'], standalone_mode=False)"
    loaded = "print({'numpy', 'asyncio', 'ssl', 'zipfile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{program}; {loaded}"], capture_output=True, timeout=TIMEOUT_S)
    assert done.stdout.splitlines()[-1] == b"set()"
    context = click.Context(cli.main)
    for name, (_, what) in cli._COMMANDS.items():
        command = cli.main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert " ".join((command.help or "").split()).startswith(what)
