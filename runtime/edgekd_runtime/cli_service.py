"""``edgekd-runtime service``."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekd_runtime import auth, guarding, hosts, service
from edgekd_runtime.cli_common import json_option, reports_faults
from edgekd_runtime.cli_serve import serve

_Command = TypeVar("_Command", bound=Callable[..., None])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SIZE = re.compile(r"\d+[KMG]?|\d+%")
_CREDENTIALS = {"token_file": "token", "tls_cert": "tls-cert", "tls_key": "tls-key"}  # read as root, for the service
_PASSES_ON = {"ignore_unknown_options": True}


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[click.Context, click.Parameter, str], str]:
    def check(ctx: click.Context, param: click.Parameter, value: str) -> str:
        if not pattern.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not {what}.")
        return value

    return check


_name_option = click.option(
    "--name",
    default="edgekd-runtime",
    show_default=True,
    callback=_matching(_NAME, "a unit's name"),
    help="Of the unit.",
)
_folder_option = click.option(
    "--unit-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=service.UNIT_FOLDER,
    show_default=True,
    help="Where units are.",
)


def _described(command: _Command) -> _Command:
    """The options that say what the service is."""
    for option in (
        click.argument("arguments", metavar="[SERVE ARGUMENTS]...", nargs=-1, type=click.UNPROCESSED, required=True),
        click.option("--group", help="Whose members may use the unix sockets. [default: nobody but root]"),
        click.option(
            "--socket", "by_socket", is_flag=True, help="Let systemd listen and start it with a first client."
        ),
        click.option(
            "--memory-max",
            default="512M",
            show_default=True,
            callback=_matching(_SIZE, "a size such as 512M, or a percentage"),
            help="It is restarted when it takes more.",
        ),
        _name_option,
    ):
        command = option(command)
    return command


@click.group("service")
def group() -> None:
    """Run 'serve' as a hardened systemd service."""


@group.command("print", context_settings=_PASSES_ON)
@_described
@json_option
@reports_faults
def show(as_json: bool, **given: Any) -> None:
    """Print the units of a service that runs 'serve' with SERVE ARGUMENTS."""
    files = _service(**given).files()
    if as_json:
        click.echo(json.dumps({"files": files}))
        return
    for name, text in files.items():
        click.echo(f"# {name}\n{text}" if len(files) > 1 else text, nl=len(files) > 1)


@group.command(context_settings=_PASSES_ON)
@_described
@_folder_option
@click.option("--no-start", is_flag=True, help="Write the units and start nothing.")
@json_option
@reports_faults
def install(unit_dir: Path, no_start: bool, as_json: bool, **given: Any) -> None:
    """Write the units, and start the service now and whenever the machine starts."""
    wanted = _service(**given)
    written, removed = service.install(wanted, unit_dir, start=not no_start)
    started = service.runs_systemd() and not no_start
    if as_json:
        paths = {"written": list(map(str, written)), "removed": list(map(str, removed))}
        click.echo(json.dumps({**paths, "started": started}))
        return
    for path in removed:
        click.echo(f"removed {path}")
    for path in written:
        click.echo(f"written {path}")
    unit = f"{wanted.name}.socket" if wanted.streams else wanted.name
    click.echo(
        f"started {wanted.name}; its log: journalctl -u {wanted.name}"
        if started
        else f"start it: systemctl enable --now {unit}"
    )


@group.command()
@_name_option
@_folder_option
@json_option
@reports_faults
def uninstall(name: str, unit_dir: Path, as_json: bool) -> None:
    """Stop the service and take its units away."""
    removed = service.uninstall(name, unit_dir)
    if as_json:
        click.echo(json.dumps({"removed": list(map(str, removed))}))
        return
    for path in removed:
        click.echo(f"removed {path}")


def _service(
    name: str, memory_max: str, by_socket: bool, group: str | None, arguments: Sequence[str]
) -> service.Service:
    """What 'serve' makes of ``arguments``. Raises ``click.UsageError``, ``KeyFileError``, ``ServeError``."""
    ctx = serve.make_context("serve", list(arguments))
    given = ctx.params
    os.environ.pop(auth.VARIABLE, None)  # the service will not have it
    guarding.guarding([given["host"]], {key: given[key] for key in guarding.NAMES})
    folder = given["model_dir"]
    reads = [path.resolve() for path in (*given["bundle_paths"], *given["public_key"], *([folder] if folder else []))]
    if not given["bundle_paths"] and folder is None:
        raise click.UsageError("give a BUNDLE, or --model-dir, to serve")
    service.checked(reads, group)
    runtime = _runtime(name, given, by_socket)
    if given["port"] < 1024 and not by_socket:
        raise click.UsageError(f"--port {given['port']}: ports below 1024 are systemd's to open; add --socket")
    credentials = {_CREDENTIALS[key]: given[key].resolve() for key in _CREDENTIALS if given[key]}
    uds = [str(given["uds"])] if given["uds"] else []
    return service.Service(
        name,
        tuple(_rewritten(ctx)),
        tuple(reads),
        credentials,
        (_stream(given["host"], given["port"]), *uds) if by_socket else (),
        runtime,
        hosts.is_loopback(given["host"]),
        memory_max,
        group,
    )


def _runtime(name: str, given: dict[str, Any], by_socket: bool) -> str | None:
    """The service's folder in /run, None where it makes no sockets itself. Raises ``click.UsageError``.

    What systemd listens on must not lie in it: the folder goes whenever the service stops, the sockets do not.
    """
    own = f"{name}/ipc" if by_socket else name
    for option, folder in (("uds", Path("/run", name)), ("ipc", Path("/run", own))):
        if given[option] and given[option].parent != folder:
            how = "with --socket, " if by_socket else ""
            raise click.UsageError(
                f"--{option}: {how}a service can only make sockets in {folder}; e.g. {folder}/socket"
            )
    return own if given["ipc"] or not by_socket else None


def _stream(host: str, port: int) -> str:
    """As ListenStream= has it, systemd.socket(5). Raises ``click.UsageError``."""
    if not port:
        raise click.UsageError("--port 0: with --socket, systemd wants a port")
    address, _, scope = ("127.0.0.1" if host == "localhost" else host).partition("%")
    try:
        is_v6 = ipaddress.ip_address(address).version == 6
    except ValueError as error:
        raise click.UsageError(f"--host {host}: with --socket, systemd wants an address, not a name") from error
    return f"[{address}]:{port}" + (f"%{scope}" if scope else "") if is_v6 else f"{address}:{port}"


def _rewritten(ctx: click.Context) -> list[str]:
    """The arguments that were given, with absolute paths, and credentials where the service finds them."""
    words: list[str] = []
    for param in serve.params:
        if ctx.get_parameter_source(param.name or "") is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[param.name or ""]
        for one in value if isinstance(value, tuple) else (value,):
            text = str(one.resolve() if isinstance(one, Path) else one)
            if isinstance(param, click.Argument):
                words.append(text)
            elif getattr(param, "is_flag", False):
                words += [param.opts[0]] if one else []
            elif param.name in _CREDENTIALS:
                words += [param.opts[0], f"%d/{_CREDENTIALS[param.name]}"]
            else:
                words += [param.opts[0], text]
    return words
