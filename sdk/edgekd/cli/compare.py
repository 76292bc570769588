"""``edgekd compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekd.cli import common
from edgekd.cli.evaluate import data_options, evaluate_options


@click.command("compare")
@click.argument("first", type=common.PATH)
@click.argument("second", type=common.PATH)
@data_options
@common.json_option
@common.quiet_option
@common.reports_errors
def command(first: Path, second: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Put two models side by side on the same rows: worth, agreement, changed answers by class, size, time.

    FIRST and SECOND are whatever 'edgekd evaluate' takes. They run in turn, so that their times can be compared.
    """
    from edgekd.evaluate import compare
    from edgekd.report.scores import comparison_notes, comparison_rows
    from edgekd.stages import Stages

    report = compare(first, second, evaluate_options(given), Stages(quiet=quiet or as_json))
    headings = ["", str(first), str(second), "change"]
    title = f"{report['rows']} rows of {given['data'].name}"
    rows, notes = comparison_rows(report), comparison_notes(report)
    common.print_result(report, title, rows, headings=headings, notes=notes, as_json=as_json, quiet=quiet)
