"""The log: one line an event, in two forms, and nothing of what a client sent."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.device.test_serve import Server

from edgekd_runtime import logs
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Headers, Reply, error_reply
from edgekd_runtime.routes import Route, Site

SECRET = "my-private-sentence"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("edgekd_runtime")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers = []  # pytest's own must survive
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_an_event_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "info")
    logs.event(logging.INFO, "reloaded", model="shop", version="1.2", why='a "b"\nc=d', empty="", count=3)
    line = capsys.readouterr().err
    assert re.fullmatch(STAMP + r' info reloaded model=shop version=1.2 why="a \\"b\\"\\nc=d" empty="" count=3\n', line)


def test_an_event_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logs.event(logging.WARNING, "refused", path="/ä\n", models=[{"name": "a"}], file=Path("/x"))
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    said = json.loads(line)
    assert re.fullmatch(STAMP, said.pop("time"))
    assert said == {"level": "warning", "event": "refused", "path": "/ä\n", "models": [{"name": "a"}], "file": "/x"}


@pytest.mark.parametrize("style", logs.FORMATS)
def test_levels(capsys: pytest.CaptureFixture[str], style: str) -> None:
    for level, wanted in (("debug", 4), ("info", 3), ("warning", 2), ("error", 1)):
        logs.configure(style, level)
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logs.event(number, "something")
        assert len(capsys.readouterr().err.splitlines()) == wanted


@pytest.mark.parametrize("style", logs.FORMATS)
def test_other_libraries_log_the_same_way(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure(style, "debug")
    logging.getLogger("some.library").warning("Invalid HTTP request\nreceived.")
    logging.getLogger("asyncio").info("not worth a line")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "some.library" in line
    if style == "text":
        assert re.fullmatch(STAMP + r" warning Invalid HTTP request received\. logger=some\.library\n", line)


def test_a_flood_of_what_a_library_says_is_a_line_in_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json", "info")
    library = logging.getLogger("some.library")
    for _ in range(300):
        library.warning("Invalid HTTP request received.")
    logs.event(logging.INFO, "ours")
    logs.event(logging.INFO, "ours")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["event"] for one in lines] == ["Invalid HTTP request received.", "ours", "ours"]


@pytest.mark.parametrize("style", logs.FORMATS)
def test_a_failure_says_where_but_not_what_was_sent(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure(style, "info")

    def fail(body: bytes, headers: Headers) -> Reply:
        raise ValueError(f"could not make a number of {body.decode()!r}")

    site = Site({}, [Route("POST", "/fail", "", lambda site: fail)])
    found = site.find("POST", "/fail")
    assert not isinstance(found, Reply)
    answer = found.now(SECRET.encode(), {"x-request-id": "mine-1", "authorization": SECRET})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert SECRET not in line
    assert "ValueError" in line
    assert re.search(r"test_logs\.py:\d+ fail < routes\.py:\d+", line)
    assert "mine-1" in line
    assert answer.status == 500
    assert ("x-request-id", "mine-1") in answer.headers
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\nb", "é", '"'])
def test_a_request_without_a_usable_name_gets_one(given: str) -> None:
    first, second = logs.request_id({"x-request-id": given}), logs.request_id({})
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert first != second


def test_a_flood_of_refusals_is_a_line_in_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    now = [0.0]
    statuses = {"/a": 401, "/b": 429}
    guard = logs.logged(
        lambda _, path, __: error_reply(statuses[path], "no") if path in statuses else None, lambda: now[0]
    )
    for second in range(21):
        now[0] = float(second)
        for path in ("/a", "/a", "/b", "/fine"):
            refused = guard({"authorization": SECRET}, path, "10.0.0.9")
            assert (refused.status if refused else None) == statuses.get(path)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["status"], one["unsaid"]) for one in lines] == [
        *((401, 0), (429, 0)),
        *((401, 19), (429, 9)),
        *((401, 19), (429, 9)),
    ]
    assert {one["client"] for one in lines} == {"10.0.0.9"}


def test_nothing_that_is_asked_is_logged(bundle_path: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Good requests and bad ones, at the most talkative level."""
    server = Server(tmp_path / "log", bundle_path, "--port", "0", "--log-level", "debug")
    connection = server.connection()
    for path in (f"/v1/models/{bundle.name}:classify", f"/v2/models/{bundle.name}/infer", "/v2/models/no/infer"):
        for kind in ("text/plain", "application/json", "image/png"):
            for body in (
                SECRET,
                json.dumps({"text": SECRET}),
                json.dumps({"inputs": [{"name": SECRET}]}),
                "{" + SECRET,
            ):
                connection.request("POST", path, body, {"content-type": kind, "x-request-id": SECRET})
                connection.getresponse().read()
    assert server.stop() == 0
    said = (tmp_path / "log").read_text()
    assert SECRET not in said
    assert [line.split()[2] for line in said.splitlines()] == ["stopping", "stopped"]


def test_start_in_json(bundle_path: Path, bundle: Bundle, engine: Engine, tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-m", "edgekd_runtime.cli", "serve", str(bundle_path), "--port", "0"]
    with subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line)["event"] for line in process.stderr]
    assert said["event"] == "serving"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", said["addresses"][0])
    assert said["models"][0]["name"] == bundle.name
    assert said["models"][0]["total_ops"] == engine.backend.total_ops
    assert rest == ["stopping", "stopped"]
