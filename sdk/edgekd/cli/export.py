"""``edgekd export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekd.cli import common, source


@click.command("export")
@click.argument("student", type=common.PATH)
@click.option("--to", "target", type=click.Choice(["onnx", "savedmodel", "tflite"]), required=True, help="Format.")
@click.option("--output", type=common.PATH, required=True, help="File, or SavedModel folder, to write.")
@click.option("--samples", type=common.PATH, help="Real data to compare outputs on. [default: random numbers]")
@common.text_column_option
@click.option(
    "--max-samples", type=click.IntRange(1), default=32, show_default=True, help="Compare on so many of --samples."
)
@source.options
@common.seed_option
@common.json_option
@common.quiet_option
@common.reports_errors
def command(
    student: Path,
    target: str,
    output: Path,
    samples: Path | None,
    text_column: str,
    max_samples: int,
    seed: int,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Write STUDENT, any model that 'edgekd convert' takes, in another format, and check that it computes the same."""
    from edgekd.export import ExportOptions, export_student
    from edgekd.stages import Stages

    options = ExportOptions(
        student, target, output, samples, text_column, max_samples, source.load_options(given), seed
    )
    report = export_student(options, Stages(quiet=quiet or as_json)).report
    loaded, written = report["equivalence"]["loaded"], report["equivalence"]["written"]
    rows = [
        ("from", report["format"]),
        *(("input", _end(one)) for one in report["inputs"]),
        *(("output", _end(one)) for one in report["outputs"]),
        ("compared on", f"{written['rows']} {'rows of ' + samples.name if samples else 'random rows'}"),
        ("float graph differs by", f"{loaded['max_difference']:.1e} at most from the model"),
        ("written differs by", f"{written['max_difference']:.1e} at most from the float graph"),
        ("written", str(output)),
    ]
    common.print_result(report, f"export to {target}", rows, notes=report["notes"], as_json=as_json, quiet=quiet)


def _end(one: dict[str, object]) -> str:
    sizes = ", ".join("batch" if size is None else str(size) for size in one["shape"])  # type: ignore[attr-defined]
    return f"{one['name']} {one['dtype']} [{sizes}]"
