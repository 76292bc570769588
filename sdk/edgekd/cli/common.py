"""What every verb shares: options, errors as one line, output for people or machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgekd.errors import EdgekdError
from edgekd.metric import METRICS, metric_name
from edgekd_runtime.errors import RuntimeFault
from edgekd_runtime.finite import FiniteRange as FiniteRange

TYPED = "edgekd.typed"
"""Where a context's ``meta`` keeps the words of the command."""


def typed() -> tuple[str, ...]:
    """The running command as it was typed, a word each, for reports to say how they came about."""
    words: tuple[str, ...] = click.get_current_context().meta.get(TYPED, ())
    return words


def _metric(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """``macro-f1`` → ``macro_f1``."""
    return value and value.replace("-", "_")


PATH = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress and print no table.")
text_column_option = click.option(
    "--text-column", default="text", show_default=True, help="Column that holds the text."
)
label_column_option = click.option(
    "--label-column", default="label", show_default=True, help="Column that holds the label."
)
metric_option = click.option(
    "--metric",
    type=click.Choice([metric_name(metric) for metric in METRICS]),
    callback=_metric,
    help="What to judge by. [default: accuracy of a classifier, auc or mse where the data say so, else closeness to "
    "the float model]",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Makes a run repeat."
)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """One line on standard error and the error's exit code, instead of a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (EdgekdError, RuntimeFault) as error:
            click.echo(f"edgekd: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("edgekd: interrupted; nothing was written", err=True)
            sys.exit(130)

    return wrapped


def print_result(
    report: dict[str, Any],
    title: str,
    rows: Sequence[Sequence[str]],
    *,
    as_json: bool,
    quiet: bool,
    headings: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """The report as JSON, or a table with ``notes`` under it, or nothing."""
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False))
    elif not quiet:
        table = Table(title=title, title_justify="left", show_header=bool(headings))
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console = Console()
        console.print(table)
        for note in notes:
            console.print(f"note: {note}", markup=False)
