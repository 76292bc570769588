"""``edgekd convert``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import common


@click.command("convert")
@click.argument("student", type=common.PATH)
@click.option("--samples", type=common.PATH, required=True, help="Real texts to calibrate on: .csv or .jsonl.")
@click.option("--eval", "evaluation", type=common.PATH, help="Labelled data to measure float and int8 on.")
@click.option("--output", type=common.PATH, required=True, help="Folder to write.")
@common.text_column_option
@common.label_column_option
@click.option(
    "--max-drop",
    type=common.FiniteRange(0, 1),
    help="Fail (exit 3) when int8 loses more accuracy on --eval, e.g. 0.01.",
)
@click.option(
    "--max-samples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Calibrate on at most this many, chosen by --seed.",
)
@click.option("--out-of-scope", type=common.PATH, help="Texts that no label fits; reports how many are refused.")
@click.option("--answers", type=common.PATH, help="JSON of label → language → answer, carried by the bundle.")
@click.option("--name", help="Name of the model and its bundle. [default: the output folder's name]")
@click.option("--model-version", default="1", show_default=True, help="Version that the server reports.")
@common.seed_option
@common.json_option
@common.quiet_option
@common.reports_errors
def command(
    student: Path,
    samples: Path,
    evaluation: Path | None,
    output: Path,
    text_column: str,
    label_column: str,
    max_drop: float | None,
    max_samples: int,
    out_of_scope: Path | None,
    answers: Path | None,
    name: str | None,
    model_version: str,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn STUDENT, a folder written by 'edgekd distill', into a verified full-integer .edgekd bundle."""
    from edgekd.options import ConvertOptions
    from edgekd.pipeline import convert
    from edgekd.report import convert_rows
    from edgekd.stages import Stages

    options = ConvertOptions(
        student=student,
        samples=samples,
        output=output,
        evaluation=evaluation,
        out_of_scope=out_of_scope,
        answers=answers,
        text_column=text_column,
        label_column=label_column,
        name=name,
        version=model_version,
        max_samples=max_samples,
        max_drop=max_drop,
        seed=seed,
    )
    result = convert(options, Stages(quiet=quiet or as_json))
    rows = [*convert_rows(result.report), ("written", str(result.bundle))]
    common.print_result(result.report, f"bundle {result.report['name']}", rows, as_json=as_json, quiet=quiet)
