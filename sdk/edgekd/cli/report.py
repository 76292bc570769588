"""``edgekd report``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import common
from edgekd.errors import DataError, UsageError


@click.command("report")
@click.argument("build", type=common.PATH)
@click.option("--output", type=common.PATH, help="File to write. [default: report.html beside report.json]")
@common.json_option
@common.quiet_option
@common.reports_errors
def command(build: Path, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Make report.html anew from the report.json of BUILD, a folder that 'edgekd convert' has written.

    One file, to be opened in a browser: it loads nothing and runs no scripts.
    """
    from jinja2 import TemplateError

    from edgekd.report import SCHEMA_VERSION
    from edgekd.report.page import render
    from edgekd.report.read import PAGE, ranges_beside, read_report
    from edgekd_runtime import atomic

    report, ranges = read_report(build), ranges_beside(build)
    try:
        page = render(report, ranges).encode()
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError, TemplateError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{build}: report.json is not as 'edgekd convert' writes it ({what})") from error
    path = output or (build if build.is_dir() else build.parent) / PAGE
    try:
        atomic.write_bytes(path, page)
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror or error}") from error
    made = {"edgekd": "report page", "schema_version": SCHEMA_VERSION, "name": report["name"], "page": str(path)}
    rows = [("name", str(report["name"])), ("written", str(path))]
    common.print_result(made, "report", rows, as_json=as_json, quiet=quiet)
