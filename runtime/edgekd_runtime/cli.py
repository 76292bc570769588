"""``edgekd-runtime``: serve, infer, info and bench one bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekd_runtime import __version__, bundle, files, guarding, timing
from edgekd_runtime.backend import BACKENDS
from edgekd_runtime.engine import Arrays, Engine
from edgekd_runtime.errors import InputError, RuntimeFault
from edgekd_runtime.poll import DEFAULT_WINDOW_US
from edgekd_runtime.signing import Trust, trust

_MAX_FILE_BODY = 16 << 20
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
_input = click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
_threads = click.option(
    "--threads", type=click.IntRange(1, 64), help="XNNPACK threads. [default: the cores, at most 4]"
)
_backend = click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True, help="Interpreter to use."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
_public_key = click.option(
    "--public-key",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Refuse bundles that are signed, but not by this key ('edgekd keygen' writes it); may be repeated.",
)
_require_signature = click.option(
    "--require-signature", is_flag=True, help="Refuse bundles that no --public-key has signed."
)


@click.group()
@click.version_option(__version__, prog_name="edgekd-runtime")
def main() -> None:
    """Run an .edgekd bundle on this device."""


def _open(path: Path, threads: int | None, backend: str, trusted: Trust) -> Engine:
    return Engine(bundle.load_bundle(path, trusted), threads=threads, backend=backend)


@main.command()
@_bundle
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="TCP port; 0 takes a free one."
)
@click.option("--uds", type=click.Path(path_type=Path), help="Listen on this unix socket too.")
@guarding.options
@click.option(
    "--max-body",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Largest request body. [default: 1 MiB; 16 MiB where files are sent]",
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
@_public_key
@_require_signature
@_reports_faults
def serve(
    bundle_path: Path,
    host: str,
    port: int,
    uds: Path | None,
    max_body: int | None,
    busy_poll: int,
    threads: int | None,
    backend: str,
    public_key: tuple[Path, ...],
    require_signature: bool,
    **given: Any,
) -> None:
    """Serve BUNDLE over HTTP on the loopback interface, and on a unix socket with --uds."""
    from edgekd_runtime import server, serving

    guarded = guarding.guarding(host, given)
    for warning in guarded.warnings:
        click.echo(f"edgekd-runtime: warning: {warning}", err=True)
    engine = _open(bundle_path, threads, backend, trust(public_key, require_signature))
    tcp = serving.listen_tcp(host, port)
    sockets, where = [tcp], [f"{'https' if guarded.tls else 'http'}://{host}:{tcp.getsockname()[1]}"]
    if uds is not None:
        sockets.append(serving.listen_unix(uds))
        where.append(f"unix:{uds}")
    ready = f"serving {_one_line(engine)} on {' and '.join(where)}"
    usual = _MAX_FILE_BODY if engine.takes in ("image", "audio") else server.DEFAULT_MAX_BODY_BYTES
    serving.serve(
        {engine.bundle.name: engine},
        sockets,
        lambda: click.echo(ready),
        guards=guarded.guards,
        tls=guarded.tls,
        max_body_bytes=max_body or usual,
        busy_poll_us=busy_poll,
    )


def _one_line(engine: Engine) -> str:
    backend = engine.backend
    xnnpack = f"XNNPACK runs {backend.delegated_ops} of {backend.total_ops} ops"
    return f"{engine.bundle.name} ({engine.bundle.precision}, {backend.name} {backend.version}, {xnnpack})"


@main.command()
@_bundle
@_input
@click.option("--text", help="What the customer wrote, for a bundle of texts.")
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="How many labels to print.")
@_json
@_threads
@_backend
@_public_key
@_require_signature
@_reports_faults
def infer(
    bundle_path: Path,
    file: Path | None,
    text: str | None,
    top_k: int,
    as_json: bool,
    threads: int | None,
    backend: str,
    public_key: tuple[Path, ...],
    require_signature: bool,
) -> None:
    """Run BUNDLE on a text, a picture, a sound, or the tensors in an .npz or .npy FILE, without a server."""
    if (file is None) == (text is None):
        raise click.UsageError("give either a FILE or --text")
    engine = _open(bundle_path, threads, backend, trust(public_key, require_signature))
    if file is not None and file.suffix.lower() in files.TENSOR_SUFFIXES:
        outputs = engine.infer(files.read_tensors(file, engine.inputs))
    else:
        outputs = engine.outputs_of(engine.preprocess(_raw(engine, file, text)))
    rows = len(outputs[engine.outputs[0].name])
    results = [_result(engine, {name: array[i] for name, array in outputs.items()}, top_k) for i in range(rows)]
    if as_json:
        click.echo(json.dumps(results[0] if len(results) == 1 else {"results": results}, ensure_ascii=False))
        return
    for number, result in enumerate(results):
        if len(results) > 1:
            click.echo(f"# {number}")
        _show(result)


def _raw(engine: Engine, file: Path | None, text: str | None) -> str | bytes:
    """What the bundle is to preprocess. Raises ``InputError`` where it takes another kind of thing."""
    if text is not None and engine.takes in (None, "text"):
        return text
    if file is not None and engine.takes in ("image", "audio"):
        return files.read_bytes(file)
    wanted = {None: "an .npz or .npy FILE", "text": "--text"}.get(engine.takes, f"a FILE of {engine.takes}")
    raise InputError(f"model {engine.bundle.name!r} takes {wanted}")


def _result(engine: Engine, outputs: Arrays, top_k: int) -> dict[str, Any]:
    """One row's outputs; with labels, as ``:classify`` answers."""
    if not engine.bundle.labels:
        return {"outputs": {name: array.tolist() for name, array in outputs.items()}}
    ranked = engine.rank(outputs[engine.outputs[0].name], top_k)
    labels = [{"label": label, "score": score} for label, score in ranked.top]
    result = {"label": ranked.label, "score": ranked.score, "in_scope": ranked.in_scope, "labels": labels}
    return {**result, "answers": dict(ranked.answers)} if engine.bundle.answers else result


def _show(result: dict[str, Any]) -> None:
    for name, values in result.get("outputs", {}).items():
        click.echo(f"{name}: {json.dumps(values)}")
    for entry in result.get("labels", ()):
        click.echo(f"{entry['score']:7.4f}  {entry['label']}")
    if not result.get("in_scope", True):
        click.echo("out of scope: the best score is below the bundle's threshold")
    for language, answer in result.get("answers", {}).items():
        click.echo(f"[{language}] {answer}")


@main.command()
@_bundle
@_json
@_public_key
@_require_signature
@_reports_faults
def info(bundle_path: Path, as_json: bool, public_key: tuple[Path, ...], require_signature: bool) -> None:
    """Say what BUNDLE holds, and load it once to check its golden answers here."""
    loaded = bundle.load_bundle(bundle_path, trust(public_key, require_signature))
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
@_input
@click.option("--text", help="The text to run. [default, as of FILE: the bundle's golden samples in turn]")
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
@_public_key
@_require_signature
@_reports_faults
def bench(
    bundle_path: Path,
    file: Path | None,
    text: str | None,
    runs: int,
    as_json: bool,
    threads: int | None,
    backend: str,
    public_key: tuple[Path, ...],
    require_signature: bool,
) -> None:
    """Time BUNDLE here, in microseconds: preprocessing, the bare invoke, and the whole answer."""
    if file is not None and text is not None:
        raise click.UsageError("give either a FILE or --text")
    engine = _open(bundle_path, threads, backend, trust(public_key, require_signature))
    timed = timing.time_stages(_stages(engine, file, text), runs)
    if as_json:
        click.echo(json.dumps({"model": _one_line(engine), "runs": runs, "unit": "us", **timed}))
        return
    click.echo(f"{_one_line(engine)}, {runs} runs\n{'µs':12}{'p50':>9}{'p90':>9}{'p99':>9}")
    for stage, figures in timed.items():
        click.echo(f"{stage:12}" + "".join(f"{figures[p]:9.1f}" for p in ("p50", "p90", "p99")))


def _stages(engine: Engine, file: Path | None, text: str | None) -> dict[str, timing.Call]:
    if file is not None and file.suffix.lower() in files.TENSOR_SUFFIXES:
        return timing.tensor_stages(engine, files.read_tensors(file, engine.inputs))
    if file is not None or text is not None:
        return timing.raw_stages(engine, [_raw(engine, file, text)])
    stages = timing.golden_stages(engine)
    if not stages:
        raise InputError("the bundle has no golden samples to run; give a FILE, or --text to a bundle of texts")
    return stages


if __name__ == "__main__":
    main()
