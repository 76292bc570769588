"""The conversion on one screen: load → prune → recover → quantise → verify → gate → package."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import scope
from edgekd.culprits import Culprit, find_culprits
from edgekd.errors import UsageError
from edgekd.flips import Flips, find_flips
from edgekd.gate import judge
from edgekd.inputs import Inputs, count, golden_files, take
from edgekd.ladder import PRECISIONS, Attempt, Candidate, Ladder, full_integer, settle
from edgekd.layers import LayerError, layer_errors, some_rows
from edgekd.metrics import Score, score
from edgekd.opening import Opening, open_source, open_teacher
from edgekd.options import ConvertOptions
from edgekd.quantising import describe_quantising, quantise, quantize_options
from edgekd.report import SCHEMA_VERSION
from edgekd.report.describe import describe_origin, describe_samples, describe_source, describe_stages
from edgekd.report.page import render
from edgekd.report.read import PAGE, RANGES, REPORT
from edgekd.shrink import Snapshot, decide, shrink
from edgekd.stages import Stages
from edgekd.verify import Run, open_graph, run_graph, side_by_side
from edgekd.versions import machine, versions
from edgekd_converters.ends import input_grids, with_float_ends
from edgekd_converters.graph import Graph
from edgekd_converters.integer import integer_fraction
from edgekd_converters.observe import feeds
from edgekd_converters.optimise import Quantized
from edgekd_converters.prune import PruneOptions, PrunePlan, plan_pruning
from edgekd_converters.range_file import write_ranges
from edgekd_runtime import atomic
from edgekd_runtime.bundle import Bundle, Golden, Scores, load_bundle
from edgekd_runtime.engine import Engine

_GOLDEN_SAMPLES = 16


@dataclass(frozen=True)
class ConvertResult:
    """``report`` is the content of ``report.json``."""

    folder: Path
    bundle: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class _Conversion:
    """What it has come to. ``runs`` and ``scores`` are of every snapshot in ``made``, then of ``result``."""

    source: Opening
    made: list[Snapshot]
    quantised: Quantized
    layers: list[LayerError]
    culprits: list[Culprit]
    result: Candidate
    tried: list[Attempt]
    runs: list[Run]
    scores: list[Score]
    flips: Flips | None
    kind: Scores
    bounds: scope.ScopeBounds | None


def convert(options: ConvertOptions, stages: Stages | None = None) -> ConvertResult:
    """Student → verified full-integer bundle in ``options.output``. Nothing is written unless all of it succeeds.

    Raises ``UsageError``, ``DataError``, ``StageError`` naming the stage, or ``GateError``.
    """
    stages = stages or Stages(quiet=True)
    name = options.model_name()
    how = quantize_options(options, stages)
    source = open_source(options, stages)
    teacher = open_teacher(options, source.student, source.graph, stages)
    made = shrink(source.graph, teacher, source.data, options, stages)
    quantised = quantise(made[-1].graph, teacher, source.data, how, stages)
    done = _examine(options, source, made, quantised, stages)
    with stages.stage("package"):
        bundle = _bundle(options, name, done)
        report = _report(options, bundle, done, stages)
        path = _write(options.output, quantised, report, bundle)
    return ConvertResult(options.output, path, report)


def _examine(
    options: ConvertOptions, source: Opening, made: list[Snapshot], quantised: Quantized, stages: Stages
) -> _Conversion:
    """Verify → layers → gate, with what stands in for int8 where that does not pass. Raises ``GateError``."""
    data, float_ends = source.data, options.io == "float32"
    int8_graph = with_float_ends(quantised.int8_graph) if float_ends else quantised.int8_graph
    with stages.stage("verify"):
        floats = [*(step.graph for step in made[:-1]), quantised.float_graph]
        runs = side_by_side([*floats, int8_graph], data.judged)
        scores = [score(run.outputs, data.truth, runs[0].outputs) for run in runs]
    with stages.stage("look into layers") as step:
        unrounded, adjusted = quantised.unrounded, quantised.adjusted
        layers = layer_errors(unrounded, int8_graph, some_rows(data.judged, unrounded))
        culprits = find_culprits(unrounded, int8_graph, data.judged, layers, step.advance)
    with stages.stage("gate") as step:
        verdict = judge(options.metric, options.max_drop, scores)
        ladder = Ladder(
            graphs=[adjusted, unrounded] if adjusted is not unrounded else [unrounded],
            ranges=quantised.ranges,
            culprits=culprits,
            columns=data.judged,
            truth=data.truth,
            reference=runs[0],
            before=scores[:-1],
            metric=verdict.metric,
            max_drop=options.max_drop,
            float_ends=float_ends,
        )
        int8 = full_integer(int8_graph, runs[-1], scores[-1], verdict, float_ends=float_ends)
        result, tried = settle(
            int8, ladder, fallback=options.allow_fallback, shrunk=len(scores) > 2, advance=step.advance
        )
        runs[-1], scores[-1] = result.run, result.score
        flips = None
        if result.score.agreement is not None:  # a classifier
            before, after = (run.outputs.argmax(1) for run in runs[-2:])
            flips = find_flips(before, after, data.targets, source.labels)
        foreign = None if data.out_of_scope is None else run_graph(result.graph, data.out_of_scope)
        kind = scope.kind_of(runs[-2].outputs)
        bounds = None if data.targets is None else scope.measure(result.run.outputs, foreign, kind)
    return _Conversion(source, made, quantised, layers, culprits, result, tried, runs, scores, flips, kind, bounds)


def _report(options: ConvertOptions, bundle: Bundle, done: _Conversion, stages: Stages) -> dict[str, Any]:
    source, result, runs, scores = done.source, done.result, done.runs, done.scores
    data = source.data
    against_float = score(result.run.outputs, data.truth, runs[-2].outputs)
    return {
        "edgekd": "conversion",
        "schema_version": SCHEMA_VERSION,
        "name": bundle.name,
        "precision": bundle.precision,
        "precision_note": bundle.precision_note,
        "io": options.io,
        "source": describe_source(source),
        "samples": describe_samples(source),
        "bytes": {"float": len(done.quantised.float_graph.content), "int8": len(result.graph.content)},
        "integer_op_fraction": integer_fraction(result.graph),
        "ops": [op.name for op in result.graph.ops],
        "accuracy": None if data.targets is None else {"float": scores[-2].accuracy, "int8": scores[-1].accuracy},
        "invoke_us": {"float": runs[-2].invoke_us, "int8": runs[-1].invoke_us},
        "agreement": against_float.agreement,
        "relative_rmse": against_float.relative_rmse,
        "judged_on": {"file": "samples" if data.evaluation is None else "eval", "rows": count(data.judged)},
        "calibration_samples": count(data.samples),
        "stages": describe_stages(done.made, result, scores, [run.invoke_us for run in runs]),
        "quantising": describe_quantising(done.quantised),
        "flips": done.flips.to_dict(source.labels) if done.flips else None,
        "worst_layer": done.layers[0].to_dict(),
        "layers": [layer.to_dict() for layer in done.layers],
        "culprits": [culprit.to_dict() for culprit in done.culprits],
        "out_of_scope": done.bounds.to_dict() if done.bounds else None,
        "gate": {**result.verdict.to_dict(), "fallbacks": [one.to_dict() for one in done.tried]},
        "command": list(options.command),
        "distilled": describe_origin(source.student, data.files),
        "seed": options.seed,
        "files": data.files,
        "seconds": dict(stages.seconds),
        "versions": versions(),
        "machine": machine(),
    }


def plan(options: ConvertOptions, prune: PruneOptions, stages: Stages | None = None) -> PrunePlan:
    """What :func:`convert` would remove in a single round; writes nothing. Raises as it does."""
    stages = stages or Stages(quiet=True)
    source = open_source(options, stages)
    teacher = open_teacher(options, source.student, source.graph, stages)
    with stages.stage("plan") as step:
        cut = decide(source.graph, teacher, source.data, prune, 1, options, step)
        return plan_pruning(source.graph, source.data.samples, cut, step.advance)


def _bundle(options: ConvertOptions, name: str, done: _Conversion) -> Bundle:
    source, result = done.source, done.result
    return Bundle(
        name=name,
        version=options.version,
        model=result.graph.content,
        precision=result.precision,
        precision_note=result.note,
        grids={name: (grid.scale, grid.zero_point) for name, grid in input_grids(result.graph).items()},
        inputs=result.graph.signature.inputs,
        outputs=result.graph.signature.outputs,
        scores=done.kind,
        labels=source.labels,
        preprocess=source.student.preprocess,
        threshold=done.bounds.threshold if done.bounds else None,
        answers=source.data.answers,
        golden=_golden(result.graph, source.data),
        created_by=f"edgekd {versions()['edgekd']}",
        layouts=dict(source.layouts),
    )


def _golden(graph: Graph, data: Inputs) -> Golden:
    """Evenly spread samples with the stored (not dequantised) values of the device runtime's own backend."""
    chosen = np.unique(np.linspace(0, count(data.samples) - 1, _GOLDEN_SAMPLES).astype(int))
    backend = open_graph(graph)
    columns = take(data.samples, chosen)
    stored = {spec.name: spec.quantize(columns[spec.name]) for spec in backend.inputs}
    outputs = [backend.invoke(list(sample.values())) for sample in feeds(stored)]
    return Golden(
        inputs=stored,
        outputs={spec.name: np.concatenate([row[k] for row in outputs]) for k, spec in enumerate(backend.outputs)},
        backend=backend.name,
        texts=tuple(data.texts[i] for i in chosen) if data.texts else (),
        raw=golden_files(data, chosen),
    )


def _write(output: Path, made: Quantized, report: dict[str, Any], bundle: Bundle) -> Path:
    """All files, each atomically, after the bundle was opened as the device will open it."""
    text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    file_name = f"{bundle.name}.edgekd"
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        trial = Path(folder) / file_name
        bundle.save(trial)
        Engine(load_bundle(trial))
        packed = trial.read_bytes()
    files = {
        "float.tflite": made.float_graph.content,
        f"{bundle.precision}.tflite": bundle.model,
        RANGES: write_ranges(made.ranges, made.kept),
        file_name: packed,
        REPORT: text.encode(),
        PAGE: render(report, made.ranges).encode(),
    }
    try:
        for name, data in files.items():
            atomic.write_bytes(output / name, data)
        for other in set(PRECISIONS) - {bundle.precision}:
            (output / f"{other}.tflite").unlink(missing_ok=True)  # of an earlier conversion
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror or error}") from error
    return output / file_name
