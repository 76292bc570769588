"""What the commands share: options, faults in one line, how a bundle is opened."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekd_runtime import bundle, logs, tune
from edgekd_runtime.backend import BACKENDS, default_threads
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import RuntimeFault
from edgekd_runtime.preprocess import image
from edgekd_runtime.signing import Trust

_Command = TypeVar("_Command", bound=Callable[..., None])


def reports_faults(command: _Command) -> _Command:
    """One line on standard error and the fault's exit code, instead of a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except RuntimeFault as fault:
            click.echo(f"edgekd-runtime: {fault}", err=True)
            sys.exit(fault.exit_code)

    return wrapped  # type: ignore[return-value]


bundle_argument = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 64),
    help="XNNPACK threads of an interpreter. [default: what 'tune' found, or the cores, at most 4]",
)
backend_option = click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True, help="Interpreter to use."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
public_key_option = click.option(
    "--public-key",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Refuse bundles that are signed, but not by this key ('edgekd keygen' writes it); may be repeated.",
)
require_signature_option = click.option(
    "--require-signature", is_flag=True, help="Refuse bundles that no --public-key has signed."
)


@dataclass(frozen=True)
class Opening:
    """How bundles are opened. ``threads`` and ``workers`` that are given count; else what was measured here does,
    of which each of ``processes`` takes its share."""

    trusted: Trust
    threads: int | None = None
    workers: int | None = None
    backend: str = "auto"
    goal: tune.Goal = "latency"
    tunes: bool = False
    """Measure now where nothing was measured yet."""
    processes: int = 1

    def __call__(self, path: Path) -> Engine:
        """Raises ``BundleError``, ``BackendError``, ``GoldenError``."""
        loaded = bundle.load_bundle(path, self.trusted)
        best = None if self.threads or self.workers else self._tuned(path, loaded)
        threads, workers = (best.threads, best.workers) if best else (self.threads, self.workers or 1)
        if self.processes > 1:
            share = max(1, default_threads() // self.processes)
            threads = self.threads or min(threads or share, share)
            workers = self.workers or min(workers, max(1, share // threads))
        return Engine(loaded, threads=threads, workers=workers, backend=self.backend)

    def _tuned(self, path: Path, loaded: bundle.Bundle) -> tune.Setting | None:
        digest = hashlib.sha256(loaded.model).hexdigest()
        tuned = tune.load(path, digest, self.backend)
        if tuned is None and self.tunes:
            tuned = tune.measure(loaded, backend=self.backend)
            if not tune.save(path, digest, self.backend, tuned):
                kept = tune.path_beside(path)
                logs.event(logging.WARNING, f"{kept} cannot be written, so it will be measured again at every load")
        return tuned.best(self.goal) if tuned else None


def one_line(engine: Engine) -> str:
    """Name, precision, interpreter, and how much of the model XNNPACK runs."""
    backend = engine.backend
    xnnpack = f"XNNPACK runs {backend.delegated_ops} of {backend.total_ops} ops"
    return f"{engine.bundle.name} ({engine.bundle.precision}, {backend.name} {backend.version}, {xnnpack})"


def shortcomings(engine: Engine) -> Iterator[str]:
    """What the operator should know of a model as it runs here, a line each."""
    name, backend = engine.bundle.name, engine.backend
    if not backend.delegated_ops:  # the reference kernels are 20 times slower and more
        why = "tflite-runtime has none for int8" if backend.name == "tflite-runtime" else "is its batch dynamic?"
        yield f"XNNPACK runs no op of {name}, so it is slow: {why}"
    if engine.takes == image.KIND and not image.can_decode():
        yield f"{name} cannot take pictures: {image.NEEDS}"
