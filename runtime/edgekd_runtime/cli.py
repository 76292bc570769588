"""``edgekd-runtime``: serve, infer, info and bench one bundle."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekd_runtime import __version__, bundle
from edgekd_runtime.backend import BACKENDS
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError, RuntimeFault
from edgekd_runtime.poll import DEFAULT_WINDOW_US

_Command = TypeVar("_Command", bound=Callable[..., None])


def _reports_faults(command: _Command) -> _Command:
    """One line on standard error and the fault's exit code, instead of a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except RuntimeFault as fault:
            click.echo(f"edgekd-runtime: {fault}", err=True)
            sys.exit(fault.exit_code)

    return wrapped  # type: ignore[return-value]


_bundle = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
_threads = click.option(
    "--threads", type=click.IntRange(1, 64), help="XNNPACK threads. [default: the cores, at most 4]"
)
_backend = click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True, help="Interpreter to use."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.group()
@click.version_option(__version__, prog_name="edgekd-runtime")
def main() -> None:
    """Run an .edgekd bundle on this device."""


def _open(path: Path, threads: int | None, backend: str) -> Engine:
    return Engine(bundle.load_bundle(path), threads=threads, backend=backend)


@main.command()
@_bundle
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="TCP port; 0 takes a free one."
)
@click.option("--uds", type=click.Path(path_type=Path), help="Listen on this unix socket too.")
@click.option(
    "--allow-remote", is_flag=True, help="Let --host be an address that other machines reach (no authentication)."
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=1 << 20,
    show_default=True,
    metavar="BYTES",
    help="Largest request body.",
)
@click.option(
    "--busy-poll",
    type=click.IntRange(0, 100_000),
    default=DEFAULT_WINDOW_US,
    show_default=True,
    metavar="MICROSECONDS",
    help="Stay awake this long for a client that asks without a pause; 0 saves the power and answers later.",
)
@_threads
@_backend
@_reports_faults
def serve(
    bundle_path: Path,
    host: str,
    port: int,
    uds: Path | None,
    allow_remote: bool,
    max_body: int,
    busy_poll: int,
    threads: int | None,
    backend: str,
) -> None:
    """Serve BUNDLE over HTTP on the loopback interface, and on a unix socket with --uds."""
    from edgekd_runtime import serving

    if not allow_remote and not serving.is_loopback(host):
        raise click.UsageError(
            f"--host {host} lets other machines in without authentication; add --allow-remote to mean it"
        )
    engine = _open(bundle_path, threads, backend)
    tcp = serving.listen_tcp(host, port)
    sockets, where = [tcp], [f"http://{host}:{tcp.getsockname()[1]}"]
    if uds is not None:
        sockets.append(serving.listen_unix(uds))
        where.append(f"unix:{uds}")
    ready = f"serving {_one_line(engine)} on {' and '.join(where)}"
    limits = {"max_body_bytes": max_body, "busy_poll_us": busy_poll}
    serving.serve({engine.bundle.name: engine}, sockets, lambda: click.echo(ready), **limits)


def _one_line(engine: Engine) -> str:
    backend = engine.backend
    xnnpack = f"XNNPACK runs {backend.delegated_ops} of {backend.total_ops} ops"
    return f"{engine.bundle.name} ({engine.bundle.precision}, {backend.name} {backend.version}, {xnnpack})"


@main.command()
@_bundle
@click.option("--text", required=True, help="What the customer wrote.")
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="How many labels to print.")
@_json
@_threads
@_backend
@_reports_faults
def infer(bundle_path: Path, text: str, top_k: int, as_json: bool, threads: int | None, backend: str) -> None:
    """Classify one text with BUNDLE, without a server."""
    from edgekd_runtime.wire import ClassifyWriter

    result = json.loads(f"{{{ClassifyWriter(_open(bundle_path, threads, backend)).result(text, top_k)}}}")
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
        return
    for entry in result["labels"]:
        click.echo(f"{entry['score']:7.4f}  {entry['label']}")
    if not result["in_scope"]:
        click.echo("out of scope: the best score is below the bundle's threshold")
    for language, answer in result.get("answers", {}).items():
        click.echo(f"[{language}] {answer}")


@main.command()
@_bundle
@_json
@_reports_faults
def info(bundle_path: Path, as_json: bool) -> None:
    """Say what BUNDLE holds, and load it once to check its golden answers here."""
    loaded = bundle.load_bundle(bundle_path)
    engine = Engine(loaded)
    facts = {
        **bundle.describe(loaded),
        "input_shapes": {spec.name: list(spec.shape) for spec in engine.inputs},
        "output_shapes": {spec.name: list(spec.shape) for spec in engine.outputs},
        "backend": f"{engine.backend.name} {engine.backend.version}",
        "xnnpack_ops": engine.backend.delegated_ops,
        "total_ops": engine.backend.total_ops,
    }
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    for key, value in facts.items():
        shown = f"{len(value)}: {', '.join(value[:4])}, …" if key == "labels" and len(value) > 4 else value
        click.echo(f"{key:17} {shown}")


@main.command()
@_bundle
@click.option("--text", help="The text to run. [default: the bundle's golden texts in turn]")
@click.option(
    "--runs",
    type=click.IntRange(10),
    default=2000,
    show_default=True,
    help="Timed runs, after as many as a tenth to warm up.",
)
@_json
@_threads
@_backend
@_reports_faults
def bench(bundle_path: Path, text: str | None, runs: int, as_json: bool, threads: int | None, backend: str) -> None:
    """Time BUNDLE here: preprocessing, the bare invoke, and the whole answer, in microseconds."""
    engine = _open(bundle_path, threads, backend)
    golden = engine.bundle.golden
    texts = (text,) if text is not None else golden.texts if golden else ()
    if not texts:
        raise InputError("the bundle has no golden texts to run; give one with --text")
    rows = [engine.preprocess(one) for one in texts]
    timed = {
        "preprocess": _time(lambda i: engine.preprocess(texts[i % len(texts)]), runs),
        "invoke": _time(lambda i: engine.invoke(rows[i % len(rows)]), runs),
        "classify": _time(lambda i: engine.classify(texts[i % len(texts)]), runs),
    }
    if as_json:
        click.echo(json.dumps({"model": _one_line(engine), "runs": runs, "unit": "us", **timed}))
        return
    click.echo(f"{_one_line(engine)}, {runs} runs\n{'µs':12}{'p50':>9}{'p90':>9}{'p99':>9}")
    for stage, figures in timed.items():
        click.echo(f"{stage:12}" + "".join(f"{figures[p]:9.1f}" for p in ("p50", "p90", "p99")))


def _time(call: Callable[[int], object], runs: int) -> dict[str, float]:
    """Percentiles in microseconds."""
    for i in range(runs // 10):
        call(i)
    taken = []
    for i in range(runs):
        start = time.perf_counter_ns()
        call(i)
        taken.append(time.perf_counter_ns() - start)
    return {f"p{p}": _percentile(sorted(taken), p) / 1000 for p in (50, 90, 99)}


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


if __name__ == "__main__":
    main()
