"""A report that has everything a report can have, and one with little, as conversions write them."""

import math
from typing import Any

VERSIONS = {"python": "3.11.7", "edgekd": "0.1.0", "tensorflow": "2.19.0"}


def stage(name: str, bytes_: int, macs: int, accuracy: float, invoke_us: float, **more: Any) -> dict[str, Any]:
    costs = {"parameters": macs // 100, "macs": macs, "bytes": bytes_, "invoke_us": invoke_us}
    worth = {"accuracy": accuracy, "macro_f1": accuracy - 0.003, "auc": None, "mse": None}
    return {"stage": name, "round": 1, **costs, **worth, "agreement": 0.987, "relative_rmse": None, **more}


def layer(tensor: str, op: str, error: float, clipped: float = 0.0) -> dict[str, Any]:
    decibels = -20 * math.log10(error) if error else None
    own = None if decibels is None else decibels + 6.5
    figures = {"relative_rmse": error, "sqnr_db": decibels, "cosine": 1 - error**2, "saturation": clipped}
    return {"tensor": tensor, "op": op, **figures, "own_sqnr_db": own}


def bell(middle: float, width: float) -> list[int]:
    return [int(40_000 * math.exp(-(((i - middle) / width) ** 2))) for i in range(64)]


def culprit(tensor: str, op: str, recovers: float, scale: float, high: float) -> dict[str, Any]:
    histogram = {"low": -1.0, "high": high, "float": bell(20, 6), "int8": [k - k % 900 for k in bell(20, 6)]}
    shares = {"recovers": recovers, "agreement": 0.004, "from_output": 0.71 * recovers, "from_weights": 0.2 * recovers}
    grid = {"scale": scale, "zero_point": -90, "bits": 8}
    return {"tensor": tensor, "op": op, **shares, "grid": grid, "saturation": 0.0123, "histogram": histogram}


def full() -> dict[str, Any]:
    groups = [
        {"name": f"block{i}/conv", "layers": [f"block{i}/conv"], "before": 64, "after": 64 - 8 * i, "macs": 10**6 * i}
        for i in range(4)
    ]
    groups = [{**group, "sensitivity": 0.01} for group in groups]
    plan = {"groups": groups, "notes": ["op 'odd' fences off block9"]}
    plan |= {"macs": {"before": 12_501_632, "after": 6_201_344}, "parameters": {"before": 77_360, "after": 50_912}}
    training = {"loss": 0.21, "teacher_agreement": 0.95}
    stages = [
        stage("loaded", 316_800, 12_501_632, 0.8719, 152.64),
        stage("pruned", 209_900, 6_201_344, 0.6861, 116.01, plan=plan),
        stage("recovered", 210_050, 6_201_344, 0.8632, 117.52, training=training),
        stage("int8", 65_840, 6_201_344, 0.8604, 57.21),
    ]
    finding = {"code": "range", "severity": "warning", "message": "the pixels go from 0 to 255, not 0 to 1"}
    error = {"code": "labels", "severity": "error", "message": "class 3 has no samples"}
    classes = [
        {"number": 3, "label": "cat", "rows": 100, "right_before": 80, "right_after": 77},
        {"number": 5, "label": "dog", "rows": 120, "right_before": 101, "right_after": 103},
    ]
    changes = [{"changed": 9, "lost": 5, "won": 2}, {"changed": 6, "lost": 1, "won": 3}]
    flips = {"rows": 1000, "changed": 15, "lost": 6, "won": 5, "by_truth": True}
    flips["classes"] = [one | change for one, change in zip(classes, changes, strict=True)]
    flips["pairs"] = [{"before": "cat", "after": "dog", "rows": 7}, {"before": "dog", "after": "cat", "rows": 4}]
    attempts = [("minmax", 0.0123, False), ("percentile", 0.0456, False), ("mse", 0.0078, True)]
    layers = [layer(f"block{i}/conv;block{i}/relu", "CONV_2D", 0.085 / (i + 1), 0.001 * i) for i in range(20)]
    command = ["edgekd", "convert", "student", "--samples", "train.csv", "--output", "my build"]
    return {
        "edgekd": "conversion",
        "schema_version": 2,
        "name": "resnet8",
        "precision": "int8",
        "precision_note": "weights, activations and arithmetic in int8",
        "io": "int8",
        "source": {"format": "keras", "notes": ["the batch of unknown size became 1"]},
        "samples": {"findings": [{**finding, "figures": {}}, {**error, "figures": {}}], "notes": ["2 files skipped"]},
        "bytes": {"float": 210_050, "int8": 65_840},
        "integer_op_fraction": 1.0,
        "ops": ["CONV_2D", "SOFTMAX"],
        "accuracy": {"float": 0.8632, "int8": 0.8604},
        "invoke_us": {"float": 117.52, "int8": 57.21},
        "agreement": 0.985,
        "relative_rmse": None,
        "judged_on": {"file": "eval", "rows": 1000},
        "calibration_samples": 300,
        "quantising": {
            "kept": ["mse"],
            "held_out": 60,
            "attempts": [
                *({"name": name, "distance": far, "kept": kept, "reason": ""} for name, far, kept in attempts),
                {"name": "bias correction", "distance": None, "kept": False, "reason": "op ODD is not known"},
            ],
        },
        "stages": stages,
        "flips": flips,
        "worst_layer": layers[0],
        "layers": [*layers, layer("exact", "RESHAPE", 0.0)],
        "culprits": [
            culprit("block3/conv;block3/relu", "CONV_2D", 0.62, 0.02, 6.0),
            culprit("block5/conv;block5/relu", "CONV_2D", 0.11, 0.004, 2.0),
            {**culprit("INPUT", "INPUT", 0.03, 0.01, 1.0), "from_output": None, "from_weights": None, "grid": None},
            {**culprit("scores", "FULLY_CONNECTED", 0.0, 0.01, 1.0), "recovers": 0.0},
        ],
        "out_of_scope": {"threshold": 0.457, "in_scope_accepted": 0.951, "out_of_scope_rejected": 0.46},
        "gate": {
            "metric": "accuracy",
            "max_drop": 0.02,
            "before": 0.8719,
            "between": 0.8632,
            "after": 0.8604,
            "drop": 0.0115,
            "met": True,
        },
        "command": command,
        "distilled": {
            "command": ["edgekd", "distill", "--data", "train.csv", "--output", "student"],
            "teacher": "minilm+keras",
            "teacher_bytes": 123_591_915,
            "teacher_answer_ms": 8.481,
            "teacher_accuracy": 0.9021,
            "versions": VERSIONS,
        },
        "seed": 7,
        "files": {"samples": "61" * 32, "student": "6a" * 32},
        "seconds": {"load": 28.95, "prune": 56.31, "gate": 0.0},
        "versions": VERSIONS,
        "machine": "Linux x86_64, 2 cores",
    }


def fallback() -> dict[str, Any]:
    """Where full int8 did not pass the gate and the ladder was climbed."""
    report = full() | {"precision": "int8-float", "precision_note": "2 of 20 ops compute in float32: CONV_2D, ADD"}
    report["stages"][-1]["stage"] = "int8-float"
    report["io"] = "float32"
    nothing = {"value": None, "drop": None, "bytes": None}
    tried = [
        {"precision": "int8-int16", "tensors": ["block3/conv"], **nothing, "skipped": "no kernel"},
        {"precision": "int8-float", "tensors": ["block3/conv", "block5/conv"], "skipped": None},
    ]
    tried[1] |= {"value": 0.861, "drop": 0.005, "bytes": 90_100}
    report["gate"]["fallbacks"] = tried
    return report


def old() -> dict[str, Any]:
    """Schema 1 in its first form: no stages, flips, culprits or command, and no labels to judge by."""
    report = full()
    for key in (
        "stages",
        "flips",
        "culprits",
        "quantising",
        "command",
        "distilled",
        "machine",
        "samples",
        "source",
        "io",
    ):
        del report[key]
    layers = [{key: one[key] for key in ("tensor", "op", "relative_rmse")} for one in report["layers"]]
    return report | {"schema_version": 1, "accuracy": None, "layers": layers, "gate": {"max_drop": None, "drop": None}}


RANGES = {"block3/conv;block3/relu": [0.0, 5.1], "scores": [-12.345, 9.75], "INPUT": [-1.0, 1.0]}
