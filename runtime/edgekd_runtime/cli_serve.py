"""``edgekd-runtime serve``."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgekd_runtime import fast, guarding, logs, notify, streams, tune
from edgekd_runtime.backend import default_threads
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.cli_common import (
    Opening,
    backend_option,
    one_line,
    public_key_option,
    reports_faults,
    require_signature_option,
    shortcomings,
    threads_option,
)
from edgekd_runtime.engine import Engine
from edgekd_runtime.finite import FiniteRange
from edgekd_runtime.poll import DEFAULT_WINDOW_US
from edgekd_runtime.signing import trust

_MAX_TEXT_BODY, _MAX_FILE_BODY = 1 << 20, 16 << 20
_JSON_BYTES, _USUAL_ROWS = 20, 4  # of a float32 written as a double, as most languages write it; of a small batch


@click.command()
@click.argument("bundle_paths", metavar="[BUNDLE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Serve every NAME.edgekd in DIR as NAME too, each tried in a child process first.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="TCP port; 0 takes a free one."
)
@click.option("--uds", type=click.Path(path_type=Path), help="Listen on this unix socket too.")
@click.option(
    "--ipc", type=click.Path(path_type=Path), help="Take frames, which cost less than HTTP, on this unix socket."
)
@guarding.options
@click.option(
    "--max-body",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Largest request body. [default: 1 MiB; 16 MiB for files or large tensors]",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, 1_000_000),
    default=512,
    show_default=True,
    help="Clients at the same time; more are answered 503.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 100_000),
    default=64,
    show_default=True,
    help="Requests that may wait for a large model; more are answered 503.",
)
@click.option(
    "--deadline-ms",
    type=FiniteRange(0, 3_600_000, min_open=True),
    help="Answer 504 when it takes longer. [default: as the client asks with X-Request-Timeout-Ms, if it does]",
)
@click.option(
    "--busy-poll",
    type=click.IntRange(0, 100_000),
    default=DEFAULT_WINDOW_US,
    show_default=True,
    metavar="MICROSECONDS",
    help="Stay awake this long for a client that asks without a pause; 0 saves the power and answers later.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Interpreters of each model, which run at the same time. [default: what 'tune' found, or 1]",
)
@threads_option
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    help="Server processes, which share the clients; each has the models in memory. "
    "[default: 1; with --tuned-for throughput the cores, at most 4]",
)
@click.option(
    "--tune", "tunes", is_flag=True, help="Measure threads and workers first, where 'tune' did not yet on this board."
)
@click.option(
    "--tuned-for",
    type=click.Choice(tune.GOALS),
    default="latency",
    show_default=True,
    help="Which of the measured settings to use.",
)
@backend_option
@public_key_option
@require_signature_option
@click.option(
    "--log-format", type=click.Choice(logs.FORMATS), default="text", show_default=True, help="Of standard error."
)
@click.option(
    "--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True, help="The least that is logged."
)
@reports_faults
def serve(
    bundle_paths: tuple[Path, ...],
    model_dir: Path | None,
    host: str,
    port: int,
    uds: Path | None,
    ipc: Path | None,
    max_body: int | None,
    max_connections: int,
    queue: int,
    deadline_ms: float | None,
    busy_poll: int,
    workers: int | None,
    threads: int | None,
    processes: int | None,
    tunes: bool,
    tuned_for: tune.Goal,
    backend: str,
    public_key: tuple[Path, ...],
    require_signature: bool,
    log_format: str,
    log_level: str,
    **given: Any,
) -> None:
    """Serve BUNDLEs over HTTP on the loopback interface, and on unix sockets with --uds and --ipc.

    SIGHUP loads them anew, without losing a request; SIGTERM ends the server when it has answered. Sockets that systemd
    passes on are taken in place of --host, --port and --uds.
    """
    from edgekd_runtime import api, listening, serving
    from edgekd_runtime.repository import Repository
    from edgekd_runtime.routes import Limits, Site
    from edgekd_runtime.siblings import Siblings
    from edgekd_runtime.supervisor import Supervisor

    if not bundle_paths and model_dir is None:
        raise click.UsageError("give a BUNDLE, or --model-dir")
    logs.configure(log_format, log_level)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to load anew
    if advice := fast.advice():
        logs.event(logging.INFO, advice)
    inherited = notify.inherited_sockets(os.environ)
    guarded = guarding.guarding(listening.hosts_of(inherited) if inherited else [host], given)
    for warning in guarded.warnings:
        logs.event(logging.WARNING, warning)
    trusted = trust(public_key, require_signature)
    listen = partial(listening.listen, inherited, host, port, uds, ipc, tls=guarded.tls is not None)
    count = processes or (default_threads() if tuned_for == "throughput" else 1)
    found, siblings = None, None
    if count > 1:
        found = listen()
        supervisor = Supervisor(count, found.sockets, by_address=given["rate_limit"] is not None)
        siblings = Siblings(supervisor.run(found.remove))  # from here on in each server process
        logs.configure(log_format, log_level, process=siblings.place.number)
    is_first = siblings is None or siblings.place.is_first
    repository = Repository(
        Opening(trusted, threads, workers, backend, tuned_for, tunes and is_first, count),
        model_dir,
        backend,
        check=partial(load_bundle, trust=trusted),
        unloaded=siblings.place.unloaded if siblings else (),
    )
    engines = repository.open_named(bundle_paths, siblings.place.named if siblings is not None else {})
    engines.update(repository.open_folder(engines))
    for engine in engines.values() if is_first else ():
        for what in shortcomings(engine):
            logs.event(logging.WARNING, what)
    site = Site(engines, api.ROUTES, Limits(math.ceil(queue / count), deadline_ms))
    if siblings is not None and (earlier := siblings.earlier()):
        site.go_on_from(earlier)
    found = found or listen()
    where = found.where
    serving.serve(
        site,
        found.http,
        lambda: _announce(list(engines.values()), where, log_format),
        repository=repository,
        guards=guarded.guards,
        tls=guarded.tls,
        remove=found.remove if siblings is None else (),
        max_body_bytes=max_body or _usual_body(engines, model_dir),
        max_connections=math.ceil(max_connections / count),
        busy_poll_us=busy_poll if count == 1 or count < len(os.sched_getaffinity(0)) else 0,
        ipc=found.ipc,
        siblings=siblings,
    )


def _announce(engines: Sequence[Engine], where: Sequence[str], log_format: str) -> None:
    """Say that requests are taken: a line for people on standard output, or an event among the others of the log."""
    if log_format == "text":
        what = ", ".join(map(one_line, engines)) or "no models yet"
        try:
            click.echo(f"serving {what} on {' and '.join(where)}")
        except OSError:  # nobody reads it, but there are clients
            streams.drop_output()
        return
    models = [
        {
            "name": one.bundle.name,
            "version": one.bundle.version,
            "precision": one.bundle.precision,
            "backend": f"{one.backend.name} {one.backend.version}",
            "xnnpack_ops": one.backend.delegated_ops,
            "total_ops": one.backend.total_ops,
        }
        for one in engines
    ]
    logs.event(logging.INFO, "serving", addresses=where, models=models)


def _usual_body(engines: dict[str, Engine], model_dir: Path | None) -> int:
    """Texts are small; files and large tensors are not, and nobody knows what a folder will hold."""
    files = model_dir is not None or any(engine.takes in ("image", "audio") for engine in engines.values())
    values = max((sum(math.prod(spec.shape) for spec in engine.inputs) for engine in engines.values()), default=0)
    return _MAX_FILE_BODY if files or values * _JSON_BYTES * _USUAL_ROWS > _MAX_TEXT_BODY else _MAX_TEXT_BODY
