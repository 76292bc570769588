"""The conversion on one screen: load → calibrate → quantise → verify → gate → package."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd import scope
from edgekd.errors import GateError, UsageError
from edgekd.inputs import Inputs, read_inputs
from edgekd.options import ConvertOptions
from edgekd.report import SCHEMA_VERSION, percent
from edgekd.stages import Stages
from edgekd.student import Student, open_student
from edgekd.verify import LayerError, SideBySide, layer_errors, run_graph, side_by_side
from edgekd.versions import versions
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.graph import Graph
from edgekd_converters.integer import integer_fraction
from edgekd_converters.keras_model import load_keras
from edgekd_converters.observe import Feed
from edgekd_converters.quantize import quantize_int8
from edgekd_runtime import atomic
from edgekd_runtime.backend import open_model
from edgekd_runtime.bundle import Bundle, Golden, load_bundle
from edgekd_runtime.engine import Engine

_LAYER_SAMPLES = 100
_GOLDEN_SAMPLES = 16


@dataclass(frozen=True)
class ConvertResult:
    """``report`` is the content of ``report.json``."""

    folder: Path
    bundle: Path
    report: dict[str, Any]


def convert(options: ConvertOptions, stages: Stages | None = None) -> ConvertResult:
    """Keras student → verified full-integer bundle in ``options.output``. Nothing is written unless all of it succeeds.

    Raises ``UsageError``, ``DataError``, ``StageError`` naming the stage, or ``GateError``.
    """
    stages = stages or Stages(quiet=True)
    name = options.model_name()
    with stages.stage("read student and samples"):
        student = open_student(options.student)
        data = read_inputs(options, student)
    with stages.stage("load"):
        float_graph = load_keras(student.model)
        _check_fits(float_graph, student)
    with stages.stage("calibrate"):
        ranges = calibrate_minmax(float_graph, _feeds(float_graph, data.samples))
    with stages.stage("quantise"):
        int8_graph = quantize_int8(float_graph, ranges)
    with stages.stage("verify"):
        judged = data.evaluation if data.evaluation is not None else data.samples
        sides = side_by_side(float_graph, int8_graph, judged)
        layers = layer_errors(float_graph, int8_graph, list(_feeds(float_graph, data.samples[:_LAYER_SAMPLES])))
        accuracy = _accuracy(sides, data.targets)
        foreign = None if data.out_of_scope is None else run_graph(int8_graph, data.out_of_scope)
        bounds = scope.measure(sides.int8_logits, foreign) if data.evaluation is not None else None
    with stages.stage("gate"):
        gate = _gate(options.max_drop, accuracy, layers)
    with stages.stage("package"):
        bundle = _bundle(options, name, student, data, int8_graph, bounds)
        report = {
            "edgekd": "conversion",
            "schema_version": SCHEMA_VERSION,
            "name": bundle.name,
            "precision": bundle.precision,
            "bytes": {"float": len(float_graph.content), "int8": len(int8_graph.content)},
            "integer_op_fraction": integer_fraction(int8_graph),
            "ops": [op.name for op in int8_graph.ops],
            "accuracy": accuracy,
            "invoke_us": {"float": sides.float_invoke_us, "int8": sides.int8_invoke_us},
            "agreement": sides.agreement,
            "judged_on": {"file": "eval" if data.evaluation is not None else "samples", "rows": len(judged)},
            "calibration_samples": len(data.samples),
            "worst_layer": _layer(layers[0]),
            "layers": [_layer(layer) for layer in layers],
            "out_of_scope": bounds.to_dict() if bounds else None,
            "gate": gate,
            "seed": options.seed,
            "files": data.files,
            "seconds": dict(stages.seconds),
            "versions": versions(),
        }
        path = _write(options.output, float_graph, int8_graph, report, bundle)
    return ConvertResult(options.output, path, report)


def _check_fits(graph: Graph, student: Student) -> None:
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    inputs = [shapes[name] for name in graph.signature.inputs.values()]
    outputs = [shapes[name] for name in graph.signature.outputs.values()]
    if inputs != [(1, student.preprocess.length)]:
        raise UsageError(f"{student.model}: takes {inputs}; preprocess.json makes (1, {student.preprocess.length})")
    rows = [op.inputs[0].shape[0] for op in graph.ops if op.name == "GATHER" and op.inputs[0].is_constant]
    # The table of length normalisations has as many rows as a text has ids.
    buckets, length = student.preprocess.buckets, student.preprocess.length
    if rows.count(buckets) < 1 + (buckets == length):
        raise UsageError(f"{student.model}: has no embedding of {buckets} rows, the buckets of preprocess.json")
    if outputs != [(1, len(student.labels))]:
        raise UsageError(f"{student.model}: gives {outputs}; labels.txt has {len(student.labels)} labels")


def _feeds(graph: Graph, ids: npt.NDArray[np.int32]) -> Iterator[Feed]:
    name = next(iter(graph.signature.inputs))
    return ({name: ids[i : i + 1]} for i in range(len(ids)))


def _accuracy(sides: SideBySide, targets: npt.NDArray[np.int32] | None) -> dict[str, float] | None:
    if targets is None:
        return None
    return {
        "float": float((sides.float_logits.argmax(1) == targets).mean()),
        "int8": float((sides.int8_logits.argmax(1) == targets).mean()),
    }


def _layer(error: LayerError) -> dict[str, Any]:
    return {"tensor": error.tensor, "op": error.op, "relative_rmse": error.relative_rmse}


def _gate(
    max_drop: float | None, accuracy: dict[str, float] | None, layers: list[LayerError]
) -> dict[str, float | None]:
    """The limit and the drop, fractions of 1, None where not given. Raises ``GateError`` when the limit is passed."""
    drop = None if accuracy is None else accuracy["float"] - accuracy["int8"]
    # 0.92 − 0.91 is a little more than 0.01 in binary.
    if accuracy is not None and drop is not None and max_drop is not None and drop > max_drop + 1e-9:
        raise GateError(
            f"gate: int8 loses {percent(drop)} of accuracy on --eval ({percent(accuracy['float'])} → "
            f"{percent(accuracy['int8'])}), more than --max-drop {max_drop} allows; the worst layer is "
            f"{layers[0].op} {layers[0].tensor!r} with {percent(layers[0].relative_rmse)} error. Nothing was written"
        )
    return {"max_drop": max_drop, "drop": drop}


def _bundle(
    options: ConvertOptions,
    name: str,
    student: Student,
    data: Inputs,
    int8_graph: Graph,
    bounds: scope.ScopeBounds | None,
) -> Bundle:
    signature = int8_graph.signature
    return Bundle(
        name=name,
        version=options.version,
        model=int8_graph.content,
        precision="int8",
        inputs=signature.inputs,
        outputs=signature.outputs,
        labels=student.labels,
        preprocess=student.preprocess,
        threshold=bounds.threshold if bounds else None,
        answers=data.answers,
        golden=_golden(int8_graph, data),
        created_by=f"edgekd {versions()['edgekd']}",
    )


def _golden(graph: Graph, data: Inputs) -> Golden:
    """Evenly spread samples with the stored (not dequantised) outputs of the device runtime's own backend."""
    chosen = np.unique(np.linspace(0, len(data.texts) - 1, _GOLDEN_SAMPLES).astype(int))
    backend = open_model(graph.content, graph.signature.inputs, graph.signature.outputs, backend="litert")
    rows = data.samples[chosen]
    outputs = [backend.invoke([rows[i : i + 1]]) for i in range(len(rows))]
    return Golden(
        inputs={backend.inputs[0].name: rows},
        outputs={spec.name: np.concatenate([row[k] for row in outputs]) for k, spec in enumerate(backend.outputs)},
        backend=backend.name,
        texts=tuple(data.texts[i] for i in chosen),
    )


def _write(output: Path, float_graph: Graph, int8_graph: Graph, report: dict[str, Any], bundle: Bundle) -> Path:
    """All files, each atomically, after the bundle was opened as the device will open it."""
    text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    file_name = f"{bundle.name}.edgekd"
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        trial = Path(folder) / file_name
        bundle.save(trial)
        Engine(load_bundle(trial))
        packed = trial.read_bytes()
    files = {
        "float.tflite": float_graph.content,
        "int8.tflite": int8_graph.content,
        file_name: packed,
        "report.json": text.encode(),
    }
    try:
        for name, data in files.items():
            atomic.write_bytes(output / name, data)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror or error}") from error
    return output / file_name
