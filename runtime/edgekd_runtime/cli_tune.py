"""``edgekd-runtime tune``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from edgekd_runtime import tune as tuning
from edgekd_runtime.bundle import Bundle, load_bundle
from edgekd_runtime.cli_common import (
    backend_option,
    json_option,
    public_key_option,
    reports_faults,
    require_signature_option,
)
from edgekd_runtime.finite import FiniteRange
from edgekd_runtime.signing import trust


@click.command()
@click.argument("bundle_paths", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    type=FiniteRange(0.01, 60),
    default=0.3,
    show_default=True,
    help="Length of one measurement; there are six of every setting.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@backend_option
@public_key_option
@require_signature_option
@reports_faults
def tune(
    bundle_paths: tuple[Path, ...],
    seconds: float,
    quiet: bool,
    as_json: bool,
    backend: str,
    public_key: tuple[Path, ...],
    require_signature: bool,
) -> None:
    """Measure on this board which threads and workers suit each BUNDLE, for one client and for many.

    The result is kept beside the bundle as BUNDLE.tune.json, and 'serve' starts with it. Bundles of other precisions
    side by side show what these are worth here.
    """
    trusted = trust(public_key, require_signature)
    loaded = [(path, load_bundle(path, trusted)) for path in bundle_paths]
    reports = []
    for path, bundle in loaded:
        tuned = _measured(bundle, backend, seconds, quiet)
        kept = tuning.save(path, hashlib.sha256(bundle.model).hexdigest(), backend, tuned)
        reports.append(_report(path, bundle, tuned, kept))
        if not as_json:
            _show(reports[-1])
    if as_json:
        click.echo(json.dumps(reports))


def _measured(bundle: Bundle, backend: str, seconds: float, quiet: bool) -> tuning.Tuned:
    if quiet or not sys.stderr.isatty():
        return tuning.measure(bundle, backend=backend, seconds=seconds)
    with click.progressbar(length=tuning.steps(), label=bundle.name, file=sys.stderr) as bar:
        return tuning.measure(bundle, backend=backend, seconds=seconds, done=lambda: bar.update(1))


def _report(path: Path, bundle: Bundle, tuned: tuning.Tuned, kept: bool) -> dict[str, Any]:
    measured = [{**vars(one.setting), "p50_us": one.p50_us, "per_second": one.per_second} for one in tuned.measured]
    best = {goal: vars(tuned.best(goal)) for goal in tuning.GOALS}
    where = str(tuning.path_beside(path)) if kept else None
    return {"bundle": str(path), "precision": bundle.precision, "measured": measured, "best": best, "written": where}


def _show(report: dict[str, Any]) -> None:
    click.echo(f"{report['bundle']} ({report['precision']})")
    click.echo(f"{'threads':>9}{'workers':>9}{'p50 µs':>12}{'per second':>12}")
    for one in report["measured"]:
        setting = {key: one[key] for key in ("threads", "workers")}
        good_for = ", ".join(goal for goal, best in report["best"].items() if best == setting)
        figures = f"{one['threads']:9}{one['workers']:9}{one['p50_us']:12.1f}{one['per_second']:12.0f}"
        click.echo(f"{figures}  {'← ' + good_for if good_for else ''}".rstrip())
    click.echo(f"written: {report['written']}" if report["written"] else "not written: the folder cannot be written to")
