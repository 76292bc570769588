"""``edgekd-runtime infer``, ``info`` and ``bench``, of one bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgekd_runtime import bundle, files, timing
from edgekd_runtime import tune as tuning
from edgekd_runtime.cli_common import (
    Opening,
    backend_option,
    bundle_argument,
    json_option,
    one_line,
    public_key_option,
    reports_faults,
    require_signature_option,
    shortcomings,
    threads_option,
)
from edgekd_runtime.engine import Arrays, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.signing import trust

_input = click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), required=False)


@click.command()
@bundle_argument
@_input
@click.option("--text", help="What the customer wrote, for a bundle of texts.")
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="How many labels to print.")
@json_option
@threads_option
@backend_option
@public_key_option
@require_signature_option
@reports_faults
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
    engine = Opening(trust(public_key, require_signature), threads, backend=backend)(bundle_path)
    if file is not None and file.suffix.lower() in files.TENSOR_SUFFIXES:
        outputs = engine.infer(files.read_tensors(file, engine.inputs))
    else:
        outputs = engine.outputs_of(engine.preprocess(_raw(engine, file, text)))
    rows = len(outputs[engine.outputs[0].name])
    results = [_result(engine, {name: array[i] for name, array in outputs.items()}, top_k) for i in range(rows)]
    if as_json:
        click.echo(json.dumps(results[0] if len(results) == 1 else {"results": results}))
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


@click.command()
@bundle_argument
@json_option
@public_key_option
@require_signature_option
@reports_faults
def info(bundle_path: Path, as_json: bool, public_key: tuple[Path, ...], require_signature: bool) -> None:
    """Say what BUNDLE holds, and load it once to check its golden answers here."""
    loaded = bundle.load_bundle(bundle_path, trust(public_key, require_signature))
    engine = Engine(loaded)
    tuned = tuning.load(bundle_path, engine.model_sha256, "auto")
    facts = {
        **bundle.describe(loaded),
        "input_shapes": {spec.name: list(spec.shape) for spec in engine.inputs},
        "output_shapes": {spec.name: list(spec.shape) for spec in engine.outputs},
        "backend": f"{engine.backend.name} {engine.backend.version}",
        "xnnpack_ops": engine.backend.delegated_ops,
        "total_ops": engine.backend.total_ops,
        "tuned": {goal: vars(tuned.best(goal)) for goal in tuning.GOALS} if tuned else None,
    }
    for what in shortcomings(engine):
        click.echo(f"edgekd-runtime: warning: {what}", err=True)
    if as_json:
        click.echo(json.dumps(facts))
        return
    if len(loaded.labels) > 4:
        facts["labels"] = f"{len(loaded.labels)}: {', '.join(loaded.labels[:4])}, …"
    for key, value in facts.items():
        if value not in (None, "", [], {}):
            click.echo(f"{key:17} {_readable(value)}")


def _readable(value: object, between: str = "; ") -> str:
    """JSON's kinds of values on a line: ``a: 1, 2; b: 3``."""
    if isinstance(value, Mapping):
        return between.join(f"{key}: {_readable(one, ', ')}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_readable(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value)


@click.command()
@bundle_argument
@_input
@click.option("--text", help="The text to run. [default, as of FILE: the bundle's golden samples in turn]")
@click.option(
    "--runs",
    type=click.IntRange(10),
    default=2000,
    show_default=True,
    help="Timed runs, after as many as a tenth to warm up.",
)
@json_option
@threads_option
@backend_option
@public_key_option
@require_signature_option
@reports_faults
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
    engine = Opening(trust(public_key, require_signature), threads, backend=backend)(bundle_path)
    timed = timing.time_stages(_stages(engine, file, text), runs)
    if as_json:
        click.echo(json.dumps({"model": one_line(engine), "runs": runs, "unit": "us", **timed}))
        return
    click.echo(f"{one_line(engine)}, {runs} runs\n{'µs':12}{'p50':>9}{'p90':>9}{'p99':>9}")
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
