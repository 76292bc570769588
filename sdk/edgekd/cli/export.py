"""``edgekd export``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import common


def _shapes(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """``input=1,128`` → its name and sizes."""
    shapes = {}
    for value in values:
        name, _, sizes = value.rpartition("=")
        if not name or not all(size.strip().isdecimal() and int(size) for size in sizes.split(",")):
            raise click.BadParameter(f"{value!r} is not a name and sizes, such as input=1,128.")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes


@click.command("export")
@click.argument("student", type=common.PATH)
@click.option("--to", "target", type=click.Choice(["onnx", "savedmodel", "tflite"]), required=True, help="Format.")
@click.option("--output", type=common.PATH, required=True, help="File, or SavedModel folder, to write.")
@click.option("--samples", type=common.PATH, help="Real data to compare outputs on. [default: random numbers]")
@common.text_column_option
@click.option(
    "--max-samples", type=click.IntRange(1), default=32, show_default=True, help="Compare on so many of --samples."
)
@click.option(
    "--shape", "shapes", multiple=True, callback=_shapes, metavar="NAME=SIZES", help="Sizes that STUDENT leaves open."
)
@click.option("--signature", help="Which signature of a SavedModel to take.")
@click.option("--trust", is_flag=True, help="Let code that is stored in STUDENT run.")
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
    shapes: dict[str, tuple[int, ...]],
    signature: str | None,
    trust: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write STUDENT, any model that 'edgekd convert' takes, in another format, and check that it computes the same."""
    from edgekd.export import ExportOptions, export_student
    from edgekd.stages import Stages

    options = ExportOptions(student, target, output, samples, text_column, max_samples, shapes, signature, trust, seed)
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
