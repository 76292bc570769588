"""The conversion on one screen: load → prune → recover → quantise → verify → gate → package."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import scope
from edgekd.culprits import find_culprits
from edgekd.errors import UsageError
from edgekd.flips import find_flips
from edgekd.gate import judge
from edgekd.inputs import Inputs, count, golden_files, take
from edgekd.ladder import PRECISIONS, Candidate, Ladder, full_integer, settle
from edgekd.layers import layer_errors, some_rows
from edgekd.metrics import score
from edgekd.opening import Opening, open_source, open_teacher
from edgekd.options import ConvertOptions
from edgekd.quantising import describe_quantising, quantise, quantize_options
from edgekd.report import SCHEMA_VERSION
from edgekd.report.describe import describe_origin, describe_samples, describe_source, describe_stages
from edgekd.report.page import render
from edgekd.report.read import PAGE, RANGES, REPORT
from edgekd.shrink import decide, shrink
from edgekd.stages import Stages
from edgekd.verify import open_graph, run_graph, side_by_side
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


def convert(options: ConvertOptions, stages: Stages | None = None) -> ConvertResult:
    """Student → verified full-integer bundle in ``options.output``. Nothing is written unless all of it succeeds.

    Raises ``UsageError``, ``DataError``, ``StageError`` naming the stage, or ``GateError``.
    """
    stages = stages or Stages(quiet=True)
    name = options.model_name()
    how = quantize_options(options, stages)
    source = open_source(options, stages)
    student, data = source.student, source.data
    teacher = open_teacher(options, student, source.graph, stages)
    made = shrink(source.graph, teacher, data, options, stages)
    made_int8 = quantise(made[-1].graph, teacher, data, how, stages)
    float_graph, int8_graph = made_int8.float_graph, made_int8.int8_graph
    float_ends = options.io == "float32"
    if float_ends:
        int8_graph = with_float_ends(int8_graph)
    with stages.stage("verify"):
        runs = side_by_side([*(step.graph for step in made[:-1]), float_graph, int8_graph], data.judged)
        scores = [score(run.outputs, data.truth, runs[0].outputs) for run in runs]
    with stages.stage("look into layers") as step:
        unrounded, adjusted = made_int8.unrounded, made_int8.adjusted
        layers = layer_errors(unrounded, int8_graph, some_rows(data.judged, unrounded))
        culprits = find_culprits(unrounded, int8_graph, data.judged, layers, step.advance)
    with stages.stage("gate") as step:
        verdict = judge(options.metric, options.max_drop, scores)
        ladder = Ladder(
            graphs=[adjusted, unrounded] if adjusted is not unrounded else [unrounded],
            ranges=made_int8.ranges,
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
        quantised = score(result.run.outputs, data.truth, runs[-2].outputs)
        flips = None
        if quantised.agreement is not None:
            before, after = (run.outputs.argmax(1) for run in runs[-2:])
            flips = find_flips(before, after, data.targets, source.labels)
        foreign = None if data.out_of_scope is None else run_graph(result.graph, data.out_of_scope)
        kind = scope.kind_of(runs[-2].outputs)
        bounds = None if data.targets is None else scope.measure(result.run.outputs, foreign, kind)
    with stages.stage("package"):
        bundle = _bundle(options, name, source, result, kind, bounds)
        report = {
            "edgekd": "conversion",
            "schema_version": SCHEMA_VERSION,
            "name": bundle.name,
            "precision": bundle.precision,
            "precision_note": bundle.precision_note,
            "io": options.io,
            "source": describe_source(source),
            "samples": describe_samples(source),
            "bytes": {"float": len(float_graph.content), "int8": len(result.graph.content)},
            "integer_op_fraction": integer_fraction(result.graph),
            "ops": [op.name for op in result.graph.ops],
            "accuracy": None if data.targets is None else {"float": scores[-2].accuracy, "int8": scores[-1].accuracy},
            "invoke_us": {"float": runs[-2].invoke_us, "int8": runs[-1].invoke_us},
            "agreement": quantised.agreement,
            "relative_rmse": quantised.relative_rmse,
            "judged_on": {"file": "samples" if data.evaluation is None else "eval", "rows": count(data.judged)},
            "calibration_samples": count(data.samples),
            "stages": describe_stages(made, result, scores, [run.invoke_us for run in runs]),
            "quantising": describe_quantising(made_int8),
            "flips": flips.to_dict(source.labels) if flips else None,
            "worst_layer": layers[0].to_dict(),
            "layers": [layer.to_dict() for layer in layers],
            "culprits": [culprit.to_dict() for culprit in culprits],
            "out_of_scope": bounds.to_dict() if bounds else None,
            "gate": {**result.verdict.to_dict(), "fallbacks": [one.to_dict() for one in tried]},
            "command": list(options.command),
            "distilled": describe_origin(student, data.files),
            "seed": options.seed,
            "files": data.files,
            "seconds": dict(stages.seconds),
            "versions": versions(),
            "machine": machine(),
        }
        path = _write(options.output, made_int8, report, bundle)
    return ConvertResult(options.output, path, report)


def plan(options: ConvertOptions, prune: PruneOptions, stages: Stages | None = None) -> PrunePlan:
    """What :func:`convert` would remove in a single round; writes nothing. Raises as it does."""
    stages = stages or Stages(quiet=True)
    source = open_source(options, stages)
    teacher = open_teacher(options, source.student, source.graph, stages)
    with stages.stage("plan") as step:
        cut = decide(source.graph, teacher, source.data, prune, 1, options, step)
        return plan_pruning(source.graph, source.data.samples, cut, step.advance)


def _bundle(
    options: ConvertOptions,
    name: str,
    source: Opening,
    result: Candidate,
    kind: Scores,
    bounds: scope.ScopeBounds | None,
) -> Bundle:
    return Bundle(
        name=name,
        version=options.version,
        model=result.graph.content,
        precision=result.precision,
        precision_note=result.note,
        grids={name: (grid.scale, grid.zero_point) for name, grid in input_grids(result.graph).items()},
        inputs=result.graph.signature.inputs,
        outputs=result.graph.signature.outputs,
        scores=kind,
        labels=source.labels,
        preprocess=source.student.preprocess,
        threshold=bounds.threshold if bounds else None,
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
