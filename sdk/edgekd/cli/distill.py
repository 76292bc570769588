"""``edgekd distill``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import common


@click.command("distill")
@click.option("--data", type=common.PATH, required=True, help="Training data: .csv or .jsonl of text and label.")
@click.option("--eval", "evaluation", type=common.PATH, help="Data to report accuracy on; never trained or chosen on.")
@click.option("--output", type=common.PATH, required=True, help="Student folder to write.")
@common.text_column_option
@common.label_column_option
@click.option(
    "--teacher",
    default="minilm",
    show_default=True,
    help="minilm (needs the extra 'minilm'; English), keras (trained from scratch; any language), a folder with "
    "model.onnx and tokenizer.json, several joined by + (minilm+keras), or none.",
)
@click.option(
    "--student", type=click.Choice(["text-ngram"]), default="text-ngram", show_default=True, help="Kind of student."
)
@click.option(
    "--buckets",
    type=click.IntRange(64, 1 << 24),
    default=16384,
    show_default=True,
    help="Hash buckets, the rows of the embedding.",
)
@click.option("--width", type=click.IntRange(1, 4096), default=48, show_default=True, help="Embedding width.")
@click.option(
    "--depth", type=click.IntRange(0, 8), default=0, show_default=True, help="Hidden layers between pooling and logits."
)
@click.option("--hidden", type=click.IntRange(1, 4096), default=128, show_default=True, help="Units of a hidden layer.")
@click.option(
    "--dropout",
    type=common.FiniteRange(0, 0.95),
    default=0.3,
    show_default=True,
    help="Dropout after pooling and hidden layers.",
)
@click.option(
    "--length",
    type=click.IntRange(16, 4096),
    default=256,
    show_default=True,
    help="Ids per text; longer texts are cut.",
)
@click.option("--epochs", type=click.IntRange(1, 10000), default=25, show_default=True, help="Passes over the data.")
@click.option("--batch", type=click.IntRange(1, 65536), default=128, show_default=True, help="Batch size.")
@click.option(
    "--learning-rate",
    type=common.FiniteRange(0, min_open=True),
    default=5e-3,
    show_default=True,
    help="Adam's, decayed by a cosine.",
)
@click.option(
    "--temperature", type=common.FiniteRange(0.05, 100), default=3.0, show_default=True, help="T of the soft labels."
)
@click.option(
    "--alpha", type=common.FiniteRange(0, 1), default=0.1, show_default=True, help="Loss = α·CE + (1−α)·T²·KL."
)
@click.option(
    "--token-dropout",
    type=common.FiniteRange(0, 0.95),
    default=0.1,
    show_default=True,
    help="Share of n-grams hidden in training.",
)
@click.option(
    "--holdout",
    type=common.FiniteRange(0.001, 0.9),
    default=0.1,
    show_default=True,
    help="Share of the data that picks the best epoch.",
)
@click.option(
    "--refit/--no-refit", default=True, show_default=True, help="Then train again on all data for as many epochs."
)
@common.seed_option
@common.json_option
@common.quiet_option
@common.reports_errors
def command(
    data: Path,
    evaluation: Path | None,
    output: Path,
    text_column: str,
    label_column: str,
    teacher: str,
    student: str,
    buckets: int,
    width: int,
    depth: int,
    hidden: int,
    dropout: float,
    length: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    temperature: float,
    alpha: float,
    token_dropout: float,
    holdout: float,
    refit: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a small student under a teacher, from a CSV or JSONL file of text and label."""
    from edgekd.distill import DistillOptions, distill
    from edgekd.distill.student import StudentOptions
    from edgekd.distill.train import TrainOptions
    from edgekd.report.words import percent
    from edgekd.stages import Stages

    options = DistillOptions(
        data=data,
        output=output,
        evaluation=evaluation,
        text_column=text_column,
        label_column=label_column,
        teacher=teacher,
        holdout=holdout,
        refit=refit,
        student=StudentOptions(buckets, width, depth, hidden, dropout, length),
        training=TrainOptions(epochs, batch, learning_rate, temperature, alpha, token_dropout, seed),
        command=common.typed(),
    )
    result = distill(options, Stages(quiet=quiet or as_json))
    accuracy = result.report["accuracy"]
    rows = [
        ("teacher", f"{teacher}{' (logits from the cache)' if result.teacher_from_cache else ''}"),
        ("teacher accuracy", percent(accuracy["teacher_eval"])),
        ("student accuracy", percent(accuracy["student_eval"])),
        (
            "held-out accuracy",
            f"{percent(accuracy['student_holdout'])} at epoch {result.report['best_epoch']} of {epochs}",
        ),
        ("parameters", f"{result.report['parameters']:,}"),
        ("written", str(result.folder)),
    ]
    common.print_result(result.report, f"student {student}", rows, as_json=as_json, quiet=quiet)
