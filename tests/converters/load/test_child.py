"""The child process: same answers as the front end itself, and whatever befalls it is one line here."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd_converters import load
from edgekd_converters.errors import LoadError, RunError, SourceNotFoundError
from edgekd_converters.graph import Graph
from edgekd_converters.load import Opened, open_model
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.load.tflite import open_source

PROBE = """
import os, sys
from pathlib import Path
from edgekd_converters.load import open_model
with open_model(Path(sys.argv[1])) as opened:
    print(opened._worker._process.pid, opened._folder, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def net(conv_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("child") / "net.bin"
    path.write_bytes(conv_graph.content)
    return path


@pytest.fixture
def opened(net: Path) -> Iterator[Opened]:
    with open_model(net) as opened:
        yield opened


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    return {"image": np.random.default_rng(0).normal(size=(25, 12, 12, 3)).astype(np.float32)}


def pid(opened: Opened) -> int:
    return opened._worker._process.pid


def test_it_gives_what_the_front_end_gives(opened: Opened, net: Path, columns: dict[str, Any]) -> None:
    source = open_source(net, LoadOptions())
    assert (opened.format, opened.notes, opened.layouts) == ("tflite", (), {})
    assert opened.graph.content == source.graph.content
    np.testing.assert_array_equal(opened.run(columns)["scores"], source.run(columns)["scores"])
    assert opened.layers({"image": columns["image"][:1]}) is None


def test_rows_in_many_portions_stay_in_order(
    opened: Opened, columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened.run(columns)["scores"]
    assert whole.shape == (25, 4)
    monkeypatch.setattr(load, "_CHUNK_BYTES", 5000)
    np.testing.assert_array_equal(opened.run(columns)["scores"], whole)


def test_what_does_not_fit_is_told_and_the_child_goes_on(opened: Opened, columns: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"differ by 'picture'.*it takes image"):
        opened.run({"image": columns["image"], "picture": columns["image"]})
    with pytest.raises(RunError, match="no rows"):
        opened.run({"image": columns["image"][:0]})
    assert opened.run(columns)["scores"].shape == (25, 4)


def test_a_crash_during_a_request_is_one_line(opened: Opened, net: Path, columns: dict[str, Any]) -> None:
    os.kill(pid(opened), signal.SIGSTOP)  # the request is under way until the crash
    crash = [threading.Timer(0.3 + i / 10, os.kill, (pid(opened), what)) for i, what in enumerate((11, signal.SIGCONT))]
    for timer in crash:
        timer.start()
    with pytest.raises(LoadError, match=r"net\.bin: the libraries that open it died of SIGSEGV") as caught:
        opened.run(columns)
    assert "\n" not in str(caught.value)
    with pytest.raises(LoadError, match="died of SIGSEGV"):
        opened.run(columns)


def test_its_last_words_are_passed_on(opened: Opened, columns: dict[str, Any]) -> None:
    (opened._folder / "stderr.txt").write_text("noise\nterminate called: std::bad_alloc\n\n")
    os.kill(pid(opened), signal.SIGABRT)
    with pytest.raises(LoadError, match="died of SIGABRT: terminate called: std::bad_alloc; the file is damaged"):
        opened.run(columns)


def test_a_request_that_takes_too_long_is_given_up(
    opened: Opened, columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_RUN_SECONDS", 1)
    os.kill(pid(opened), signal.SIGSTOP)
    with pytest.raises(LoadError, match="given up after 1 s"):
        opened.run(columns)


def test_it_ends_with_the_context_and_leaves_no_file(
    net: Path, columns: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_model(net) as opened:
        opened.run(columns)
        child = pid(opened)
        assert list(tmp_path.iterdir()) == [opened._folder]
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{child}").exists()


def test_it_ends_with_its_parent(net: Path) -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE, net], capture_output=True, text=True, timeout=60, check=False)
    assert probe.returncode == -signal.SIGKILL, probe.stderr
    child, folder = probe.stdout.split()
    deadline = time.monotonic() + 20
    while (Path(f"/proc/{child}/cmdline").exists() or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/cmdline").exists()
    assert not Path(folder).exists()


def test_it_keeps_within_the_users_own_limit(net: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
    asks = "import sys, pathlib; from edgekd_converters.load import open_model\n"
    opens = "with open_model(pathlib.Path(sys.argv[1])) as opened: print(opened.format)"
    command = [sys.executable, "-c", limited + asks + opens, str(net)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "tflite\n", done.stderr


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="none: no such file") as caught, open_model(tmp_path / "none"):
        pass
    assert caught.value.exit_code == 2


def test_an_error_names_the_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.keras").write_text("hello")
    with pytest.raises(LoadError, match=r"^model\.keras: no model"), open_model(Path("model.keras")):
        pass


def test_a_signature_is_for_those_that_have_some(tmp_path: Path, keras: Any) -> None:
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    options = LoadOptions(signature="serve")
    with (
        pytest.raises(LoadError, match="--signature is for SavedModels; this is keras"),
        open_model(tmp_path / "m.keras", options),
    ):
        pass


def test_nothing_is_written_to_the_terminal(
    net: Path, columns: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with open_model(net) as opened:
        opened.run(columns)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "code",
    ["create_connection(('127.0.0.1', 9))", "socket(type=2).sendto(b'x', ('127.0.0.1', 9))", "gethostbyname('host')"],
    ids=["stream", "datagram", "name"],
)
def test_even_trusted_code_does_not_reach_the_network(keras: Any, tmp_path: Path, code: str) -> None:
    """The code is real and runs: it is told so by the child's own refusal."""
    call = eval(f"lambda x: (__import__('socket').{code}, x)[1]")
    layer = keras.layers.Lambda(call, output_shape=(3,))
    layer.compute_output_spec = lambda x, **_: keras.KerasTensor(x.shape)  # or it would run here
    inputs = keras.Input((3,))
    keras.Model(inputs, layer(inputs)).save(tmp_path / "m.keras")
    with (
        pytest.raises(LoadError, match="does not use the network"),
        open_model(tmp_path / "m.keras", LoadOptions(trust=True)),
    ):
        pass
