"""The options of ``edgekd convert`` that govern how the float model becomes int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import common
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd_converters.optimise import QuantizeOptions

_OPTIONS = (
    click.option(
        "--calibrator",
        type=click.Choice(["auto", "minmax", "percentile", "mse"]),
        default="auto",
        show_default=True,
        help="What tells the ranges of activations; auto tries them all on samples that it holds out.",
    ),
    click.option(
        "--percentile",
        type=common.FiniteRange(50, 100, min_open=True),
        default=99.99,
        show_default=True,
        help="Of values within the range, at either end.",
    ),
    click.option(
        "--ranges",
        type=common.PATH,
        help="A ranges.json of an earlier build, edited perhaps: its ranges stand, whatever the calibrator says.",
    ),
    click.option("--no-equalise", is_flag=True, help="Leave channels as loud as they are, even where it would help."),
    click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are, even where it would help."),
    click.option(
        "--qat-steps",
        type=click.IntRange(1),
        help="Then train weights and ranges so many batches of --samples with int8's rounding; kept where it helps.",
    ),
    click.option(
        "--qat-batch", type=click.IntRange(1, 65536), default=64, show_default=True, help="Rows of such a batch."
    ),
    click.option(
        "--qat-learning-rate",
        type=common.FiniteRange(0, 0.1, min_open=True),
        default=3e-5,
        show_default=True,
        help="Share of its channel's greatest weight by which a weight moves at a step, at most.",
    ),
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds them all to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def quantize_options(given: dict[str, Any], seed: int) -> QuantizeOptions:
    """Raises ``UsageError`` for an option that would do nothing."""
    from edgekd_converters.optimise import QuantizeOptions
    from edgekd_converters.qat import QatOptions

    if _is_given("percentile") and given["calibrator"] not in ("auto", "percentile"):
        raise UsageError(f"--percentile does nothing with --calibrator {given['calibrator']}")
    for option in ("qat_batch", "qat_learning_rate"):
        if _is_given(option) and given["qat_steps"] is None:
            raise UsageError(f"--{option.replace('_', '-')} needs --qat-steps")
    qat = None
    if given["qat_steps"] is not None:
        qat = QatOptions(given["qat_steps"], given["qat_batch"], given["qat_learning_rate"], seed=seed)
    return QuantizeOptions(
        given["calibrator"],
        given["percentile"],
        equalise=not given["no_equalise"],
        bias=not given["no_bias_correction"],
        qat=qat,
    )


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT
