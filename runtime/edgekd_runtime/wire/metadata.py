"""What a server and a model say of themselves in the Open Inference Protocol, and Triton's model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd_runtime import __version__
from edgekd_runtime.backend import TensorSpec
from edgekd_runtime.engine import MAX_BATCH, Engine
from edgekd_runtime.histogram import Histogram
from edgekd_runtime.wire.answers import LABEL, SCORE
from edgekd_runtime.wire.datatypes import BYTES, DATATYPES

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")


def server() -> dict[str, Any]:
    """``GET /v2``."""
    return {"name": "edgekd-runtime", "version": __version__, "extensions": list(EXTENSIONS)}


def model(engine: Engine) -> dict[str, Any]:
    """``GET /v2/models/NAME``. The raw input stands beside the tensor that it is turned into.

    Both may have the same name; then the datatype tells them apart, for no tensor is of BYTES.
    """
    inputs = [_described(spec, datatype_of(spec)) | _int8_form(engine, spec) for spec in engine.inputs]
    outputs = [_described(spec, "FP32") for spec in engine.outputs]
    if preprocess := engine.bundle.preprocess:
        parameters = {"instead_of": inputs[0]["name"], "media_types": list(preprocess.media_types)}
        inputs.append({"name": preprocess.media, "datatype": BYTES, "shape": [-1], "parameters": parameters})
    if engine.bundle.labels:
        outputs.append({"name": LABEL, "datatype": BYTES, "shape": [-1]})
        outputs.append({"name": SCORE, "datatype": "FP32", "shape": [-1]})
    return {
        "name": engine.bundle.name,
        "versions": [engine.bundle.version],
        "platform": f"edgekd_{engine.backend.name}",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {
            "precision": engine.bundle.precision,
            "precision_note": engine.bundle.precision_note,
            "labels": list(engine.bundle.labels),
        },
    }


def _int8_form(engine: Engine, spec: TensorSpec) -> dict[str, Any]:
    """Of an input that is taken as stored int8 values too: what these stand for."""
    if spec.name not in engine.bundle.grids:
        return {}
    scale, zero_point = engine.bundle.grids[spec.name]
    return {"parameters": {"int8_scale": scale, "int8_zero_point": zero_point}}


def datatype_of(spec: TensorSpec) -> str:
    """An integer input is offered as FP32 when it has a scale: the engine quantises."""
    return "FP32" if spec.scale else DATATYPES[spec.dtype]


def _described(spec: TensorSpec, datatype: str) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype, "shape": [-1, *spec.shape[1:]]}


def config(engine: Engine) -> dict[str, Any]:
    """``GET /v2/models/NAME/config``: the same as Triton's ModelConfig, whose ``dims`` leave out the batch.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
    """
    described = model(engine)
    return {
        "name": described["name"],
        "platform": described["platform"],
        "backend": "edgekd",
        "max_batch_size": MAX_BATCH,
        "input": [_configured(one) for one in described["inputs"]],
        "output": [_configured(one) for one in described["outputs"]],
    }


def _configured(one: dict[str, Any]) -> dict[str, Any]:
    kind = "STRING" if one["datatype"] == BYTES else one["datatype"]
    return {"name": one["name"], "data_type": f"TYPE_{kind}", "dims": one["shape"][1:] or [1]}


def statistics(times: Mapping[str, tuple[str, Histogram]]) -> dict[str, Any]:
    """``GET /v2/models[/NAME]/stats``: Triton's statistics, as far as they are counted: runs of the interpreter.

    ``times``: model → its version and how long they took.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
    """
    return {"model_stats": [_counted(name, *one) for name, one in times.items()]}


def _counted(name: str, version: str, times: Histogram) -> dict[str, Any]:
    count = sum(times.counts)
    spent = {"count": count, "ns": round(times.total_s * 1e9)}
    return {
        "name": name,
        "version": version,
        "inference_count": count,
        "execution_count": count,
        "inference_stats": {"success": spent, "compute_infer": spent},
        "batch_stats": [],
    }
