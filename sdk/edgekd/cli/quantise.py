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
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds them all to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def quantize_options(given: dict[str, Any]) -> QuantizeOptions:
    """Raises ``UsageError`` for an option that would do nothing."""
    from edgekd_converters.optimise import QuantizeOptions

    source = click.get_current_context().get_parameter_source("percentile")
    if source is not click.core.ParameterSource.DEFAULT and given["calibrator"] not in ("auto", "percentile"):
        raise UsageError(f"--percentile does nothing with --calibrator {given['calibrator']}")
    return QuantizeOptions(calibrator=given["calibrator"], percentile=given["percentile"])
