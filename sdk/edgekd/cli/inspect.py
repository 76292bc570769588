"""``edgekd inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import common


@click.command("inspect")
@click.argument("build", type=common.PATH)
@click.option("--layers", is_flag=True, help="Every layer's error between float and int8, and what costs most.")
@common.json_option
@common.quiet_option
@common.reports_errors
def command(build: Path, layers: bool, as_json: bool, quiet: bool) -> None:
    """Say how a conversion went: BUILD is a folder that 'edgekd convert' has written."""
    from edgekd.report.read import read_report
    from edgekd.report.scores import layer_table
    from edgekd.report.tables import convert_rows, remarks

    report = read_report(build)
    if layers:
        chosen = {key: report[key] for key in ("edgekd", "schema_version", "name", "precision", "layers", "culprits")}
        headings, rows = layer_table(report)
        title = f"layers of {report['name']}, worst first"
        common.print_result(chosen, title, rows, headings=headings, as_json=as_json, quiet=quiet)
    else:
        title, notes = f"bundle {report['name']}", remarks(report)
        common.print_result(report, title, convert_rows(report), notes=notes, as_json=as_json, quiet=quiet)
