"""``edgekd-runtime``: its commands, each of which is loaded when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

try:
    import click
except ImportError:  # a client's machine, which has the package and numpy alone
    sys.exit("edgekd-runtime: the command needs click, which pip install edgekd-runtime brings; a client needs neither")

from edgekd_runtime import __version__, streams

_COMMANDS = {
    "bench": (
        "cli_bundle:bench",
        "Time BUNDLE here, in microseconds: preprocessing, the bare invoke, and the whole answer.",
    ),
    "infer": (
        "cli_bundle:infer",
        "Run BUNDLE on a text, a picture, a sound, or the tensors in an .npz or .npy FILE, without a server.",
    ),
    "info": ("cli_bundle:info", "Say what BUNDLE holds, and load it once to check its golden answers here."),
    "serve": (
        "cli_serve:serve",
        "Serve BUNDLEs over HTTP on the loopback interface, and on unix sockets with --uds and --ipc.",
    ),
    "service": ("cli_service:group", "Run 'serve' as a hardened systemd service."),
    "tune": (
        "cli_tune:tune",
        "Measure on this board which threads and workers suit each BUNDLE, for one client and for many.",
    ),
}
"""Name → where it is, and the first sentence of its help."""


class _Program(click.Group):
    """Loads of its commands the one that is called: numpy and the server take longer than ``--help`` should."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"edgekd_runtime.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in _COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's, and in one line where standard output cannot be written to, but for a pipe that is closed."""
        streams.prepare()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if streams.takes_output():
                raise
            streams.drop_output()
            click.echo(f"edgekd-runtime: standard output: {error.strerror or error}", err=True)
            sys.exit(1)


@click.group(cls=_Program)
@click.version_option(__version__, prog_name="edgekd-runtime")
def main() -> None:
    """Run an .edgekd bundle on this device."""


if __name__ == "__main__":
    main()
