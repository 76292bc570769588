"""The ``edgekd`` command; one module a verb."""

from __future__ import annotations

import importlib
from typing import Any

import click

from edgekd import __version__
from edgekd.cli import common

_VERBS = {
    "distill": "Train a small student under a teacher.",
    "convert": "Turn a student into a full-integer .edgekd bundle.",
    "report": "Make report.html anew from a build's report.json.",
    "evaluate": "Score a model of any stage on data.",
    "compare": "Put two models side by side on data.",
    "inspect": "Say how a conversion went, layer by layer.",
    "export": "Write a student as ONNX, SavedModel or .tflite.",
    "keygen": "Make a key that signs bundles.",
    "sign": "Sign a bundle.",
}


class _LazyGroup(click.Group):
    """Imports a verb's module, and with it TensorFlow, only when that verb runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = importlib.import_module(f"edgekd.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        ctx.meta[common.TYPED] = ("edgekd", *args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="edgekd")
def main(**_: Any) -> None:
    """From a trained teacher to a full-integer model that answers on a small board."""
