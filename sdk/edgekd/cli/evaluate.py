"""``edgekd evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import common, preprocess, source

if TYPE_CHECKING:
    from edgekd.evaluate import EvaluateOptions


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that scores models on data."""
    for option in (
        preprocess.options,
        source.options,
        click.option("--labels", type=common.PATH, help="Names of the classes, one a line."),
        common.label_column_option,
        common.text_column_option,
        click.option(
            "--data",
            type=common.PATH,
            required=True,
            help="Rows to run: .csv or .jsonl of texts; .npz or .npy of arrays; a folder of pictures or .wav.",
        ),
    ):
        command = option(command)
    return command


def evaluate_options(given: dict[str, Any]) -> EvaluateOptions:
    """What they say."""
    from edgekd.evaluate import EvaluateOptions

    return EvaluateOptions(
        data=given["data"],
        text_column=given["text_column"],
        label_column=given["label_column"],
        labels=given["labels"],
        preprocess=preprocess.given(given),
        load=source.load_options(given),
    )


@click.command("evaluate")
@click.argument("model", type=common.PATH)
@data_options
@common.json_option
@common.quiet_option
@common.reports_errors
def command(model: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Score MODEL on data: a bundle, a build folder, a .tflite float or int8, a student, or any model convert takes."""
    from edgekd.evaluate import evaluate
    from edgekd.report.scores import evaluation_rows
    from edgekd.stages import Stages

    report = evaluate(model, evaluate_options(given), Stages(quiet=quiet or as_json))
    title = f"{model} on {report['rows']} rows of {given['data'].name}"
    common.print_result(report, title, evaluation_rows(report), as_json=as_json, quiet=quiet)
