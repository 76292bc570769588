"""Schemathesis, in an environment of its own, against the OpenAPI document that the server serves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from runtime_peers import NotHere, environment
from runtime_process import ask, connect, foreign_environment, get

_PATH = "/openapi.json"
_REQUIREMENTS = ("schemathesis==4.32.5",)


def openapi_findings(port: int, examples: int, folder: Path) -> dict[str, Any] | str:
    """What it found, its report beside it in ``folder``; or why it was not asked, in one line.

    Unloading is left out: what is unloaded answers nothing more, and there would be nothing to find.
    """
    with connect(port) as connection:
        status, document = ask(connection, get(_PATH))
    if status != 200:
        return f"not asked: {_PATH} answers {status}"
    try:
        python = environment("schemathesis", _REQUIREMENTS)
    except NotHere as error:
        return f"not asked: {error}"
    path, report = folder / "openapi.json", folder / "schemathesis.json"
    path.write_bytes(document)
    report.unlink(missing_ok=True)
    command = [str(python.with_name("schemathesis")), "run", str(path), "--url", f"http://127.0.0.1:{port}"]
    command += ["--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", "0", "--no-shrink"]
    command += ["--continue-on-failure", "--exclude-path-regex", "unload", "--warnings", "off"]
    command += ["--report", "json", "--report-json-path", str(report)]
    with (folder / "schemathesis.log").open("wb") as log:
        subprocess.run(command, cwd=folder, env=foreign_environment(), stdout=log, stderr=log, check=False)
    if not report.is_file():
        return f"it ended without a report; see {folder / 'schemathesis.log'}"
    told = json.loads(report.read_text(encoding="utf-8"))
    operations, cases = told["operations"]["tested"], told["test_cases"]["generated"]
    wrong = told["failures"] + told["errors"]
    return {
        "operations": operations,
        "cases": cases,
        "server_errors": wrong,
        "summary": f"{cases} cases of {operations} operations, {len(wrong)} server errors",
    }
