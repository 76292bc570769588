"""``edgekd convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgekd.cli import common, preprocess, quantise, shrink, source
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd.metric import Metric
    from edgekd.options import ConvertOptions
    from edgekd.stages import Stages
    from edgekd_converters.prune import PruneOptions


@click.command("convert")
@click.argument("student", type=common.PATH)
@click.option(
    "--samples",
    type=common.PATH,
    required=True,
    help="Real data to calibrate on: .csv or .jsonl of texts; .npz or .npy of arrays; a folder of pictures or .wav.",
)
@click.option(
    "--eval",
    "evaluation",
    type=common.PATH,
    help="Data to measure float and int8 on, with labels (in an .npz y, or a folder a class) if it is a classifier.",
)
@click.option("--output", type=common.PATH, help="Folder to write; only --dry-run goes without.")
@common.text_column_option
@common.label_column_option
@click.option(
    "--max-drop",
    type=common.FiniteRange(0, 1),
    help="Fail (exit 3) when int8 loses more of --metric on --eval than this against STUDENT, e.g. 0.01 of accuracy.",
)
@common.metric_option
@click.option(
    "--io",
    type=click.Choice(["int8", "float32"]),
    default="int8",
    show_default=True,
    help="Type of the model's real inputs and outputs; clients of the bundle may send either to both.",
)
@click.option(
    "--allow-fallback",
    is_flag=True,
    help="Where int8 does not pass --max-drop, try 16-bit activations and floats on the culprits, then dynamic int8.",
)
@click.option(
    "--max-samples",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Calibrate, and choose what to prune, on at most this many, chosen by --seed.",
)
@click.option("--strict", is_flag=True, help="Fail on whatever the linter finds wrong with --samples.")
@source.options
@click.option(
    "--tolerance",
    type=common.FiniteRange(0, 1, min_open=True),
    help="Share of an output's range by which the float graph may differ from STUDENT. [default: 0.001]",
)
@preprocess.options
@shrink.options
@quantise.options
@click.option("--labels", type=common.PATH, help="Names of the classes, one a line. [default: the model's labels.txt]")
@click.option("--out-of-scope", type=common.PATH, help="Data that no label fits; reports how much is refused.")
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
    output: Path | None,
    text_column: str,
    label_column: str,
    max_drop: float | None,
    metric: Metric | None,
    allow_fallback: bool,
    io: Literal["int8", "float32"],
    max_samples: int,
    labels: Path | None,
    out_of_scope: Path | None,
    answers: Path | None,
    name: str | None,
    model_version: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    strict: bool,
    tolerance: float | None,
    **given: Any,
) -> None:
    """Turn STUDENT into a verified int8 .edgekd bundle.

    STUDENT is a folder written by 'edgekd distill', or a float model: .keras, .h5, SavedModel folder, .onnx, .tflite,
    or PyTorch's .pt2.
    """
    shrink.check()
    if output is None and not dry_run:
        raise UsageError("--output is missing, the folder to write; only --dry-run goes without")
    from edgekd.options import ConvertOptions
    from edgekd.stages import Stages
    from edgekd_converters.load.equivalence import TOLERANCE

    options = ConvertOptions(
        student=student,
        samples=samples,
        output=output or Path(),  # where there is none, nothing will be written
        evaluation=evaluation,
        out_of_scope=out_of_scope,
        answers=answers,
        text_column=text_column,
        label_column=label_column,
        name=name,
        version=model_version,
        max_samples=max_samples,
        max_drop=max_drop,
        metric=metric,
        allow_fallback=allow_fallback,
        io=io,
        seed=seed,
        labels=labels,
        prune=shrink.prune_options(given, seed),
        prune_rounds=given["prune_rounds"],
        recover=shrink.recover_options(given, seed),
        teacher=given["teacher"],
        load=source.load_options(given),
        preprocess=preprocess.given(given),
        tolerance=TOLERANCE if tolerance is None else tolerance,
        strict=strict,
        command=common.typed(),
        quantize=quantise.quantize_options(given, seed),
        ranges=given["ranges"],
    )
    stages = Stages(quiet=quiet or as_json)
    if dry_run and options.prune:
        _plan(options, options.prune, stages, as_json=as_json, quiet=quiet)
    else:
        _convert(options, stages, as_json=as_json, quiet=quiet)


def _convert(options: ConvertOptions, stages: Stages, *, as_json: bool, quiet: bool) -> None:
    from edgekd.pipeline import convert
    from edgekd.report.tables import convert_rows, remarks

    result = convert(options, stages)
    rows = [*convert_rows(result.report), ("written", str(result.bundle))]
    title, notes = f"bundle {result.report['name']}", remarks(result.report)
    common.print_result(result.report, title, rows, notes=notes, as_json=as_json, quiet=quiet)


def _plan(options: ConvertOptions, prune: PruneOptions, stages: Stages, *, as_json: bool, quiet: bool) -> None:
    from edgekd.pipeline import plan
    from edgekd.report import SCHEMA_VERSION
    from edgekd.report.describe import describe_plan
    from edgekd.report.tables import plan_table

    made = plan(options, prune, stages)
    report = {"edgekd": "prune plan", "schema_version": SCHEMA_VERSION, "amount": prune.amount, **describe_plan(made)}
    headings, rows = plan_table(made)
    title = f"plan of --prune {prune.amount}"
    common.print_result(report, title, rows, headings=headings, notes=made.notes, as_json=as_json, quiet=quiet)
