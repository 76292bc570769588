"""``make bench-quantise``: int8 by TensorFlow's converter, by ai-edge-quantizer's defaults and by ours, side by side.

Same float model, same 1,000 calibration samples, all test samples. Models are trained once and kept, as is every
finished model's result: the benchmark can be ended and started again. Accuracies of int8 models this near to each
other differ by chance; how near each is to the float model itself says more, and stands beside them. The encoder, which
has the fewest test samples, is trained from five seeds, and their means are judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer, recipe

from common import RESULTS, digest, finish
from edgekd.versions import versions
from edgekd_converters.condition import condition
from edgekd_converters.divergence import are_probabilities, log_probabilities, run_columns
from edgekd_converters.export import draw_columns, export
from edgekd_converters.graph import Graph, Tensor, read_graph, write_model
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.optimise import Quantized, QuantizeOptions, make_int8
from edgekd_converters.quiet import import_tensorflow, quiet
from edgekd_runtime import atomic
from quantise_models import SEED, SUBJECTS, Array, Subject

_WORST, _FROM_FLOAT = 0.001, 0.003
_KEY = "serving_default"
_WAYS = ("float", "TFLiteConverter", "ai-edge-quantizer", "ours", "ours, trained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=list(SUBJECTS), type=lambda text: text.split(","))
    parser.add_argument("--finished", action="store_true", help="report what is finished, do no more")
    options = parser.parse_args()
    if unknown := set(options.models) - set(SUBJECTS):
        parser.error(f"--models: {sorted(unknown)[0]!r} is not one of {', '.join(SUBJECTS)}")
    import_tensorflow()
    records = {}
    for key in options.models:
        path = RESULTS / "quantise" / f"{key}.json"
        if not path.is_file() and not options.finished:
            record = measure(SUBJECTS[key]())
            atomic.write_bytes(path, json.dumps(record, indent=1).encode())
        if path.is_file():
            records[key] = json.loads(path.read_text("utf-8"))
            print(key, records[key]["scores"], flush=True)
    if not records:
        sys.exit("nothing is finished")
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records.values():
        groups.setdefault(record["model"], []).append(record)
    judged = {model: averaged(group) for model, group in groups.items()}
    met = {model: verdict(record) for model, record in judged.items()}
    rows = [
        (model, *(shown(record, way) for way in _WAYS), ", ".join(record["kept"]), met[model])
        for model, record in judged.items()
    ]
    result = {"models": records, "met": met, "code": digest(Path(__file__).parent.glob("quantise*.py"))}
    finish("quantise", result, rows, ("", *_WAYS, "kept", "asked"))
    sys.exit(0 if all(answer == "met" for answer in met.values()) else 1)


def measure(subject: Subject) -> dict[str, Any]:
    """Scores of all ways, and how far each is from the float model; a way that fails has its reason instead."""
    wanted = answers(subject.graph, subject)
    scores: dict[str, float] = {"float": score(wanted, subject)}
    apart: dict[str, dict[str, float]] = {"float": _truth(wanted, subject)}
    failures: dict[str, str] = {}
    made: dict[str, Quantized] = {}

    def ours(name: str, samples: Columns, options: QuantizeOptions) -> Graph:
        made[name] = make_int8(condition(subject.graph), samples, options)
        return made[name].int8_graph

    ways: dict[str, Callable[[], Graph]] = {
        "TFLiteConverter": lambda: by_tensorflow(subject),
        "ai-edge-quantizer": lambda: by_quantizer(subject.graph, subject.samples),
        "ours": lambda: ours("ours", subject.samples, QuantizeOptions()),
        "ours, trained": lambda: ours(
            "ours, trained",
            subject.trains_on() if subject.trains_on else subject.samples,
            QuantizeOptions(qat=subject.qat),
        ),
    }
    sizes = {"float": len(subject.graph.content)}
    if subject.noise:
        scores["float, noise of a grey level"] = score(answers(subject.graph, noisy(subject)), subject)
    for name, way in ways.items():
        try:
            graph = way()
            got = answers(graph, subject)
            scores[name], apart[name] = (
                score(got, subject),
                distances(wanted, got, classifier=subject.labels is not None) | _truth(got, subject),
            )
            sizes[name] = len(graph.content)
        except Exception as error:  # whatever another quantiser raises is its result
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(subject.name, name, scores.get(name, failures.get(name)), apart.get(name), flush=True)
    best = made.get("ours, trained", made.get("ours"))
    return {
        "model": subject.name,
        "metric": subject.metric,
        "scores": scores,
        "from_float": apart,
        "failures": failures,
        "bytes": sizes,
        "kept": list(made["ours"].kept) if "ours" in made else [],
        "attempts": [vars(one) for one in best.attempts] if best else [],
        "test_samples": len(next(iter(subject.test.values()))),
        "qat_steps": subject.qat.steps,
        "needs_training": subject.needs_training,
        "versions": versions(),
    }


def answers(graph: Graph, subject: Subject) -> Array:
    """The output on all test samples."""
    (got,) = run_columns(graph, _named_as(graph, subject.test)).values()
    return got


def score(got: Array, subject: Subject) -> float:
    """Top-1 on the test samples; of an autoencoder the squared error over the variance of what it was given."""
    if subject.labels is not None:
        return float((got.argmax(1) == subject.labels).mean())
    (given,) = subject.test.values()
    return float(np.square(got - given).mean() / given.var())


def distances(wanted: Array, got: Array, *, classifier: bool) -> dict[str, float]:
    """Of a classifier's answers, the share with the same top-1 and how far probabilities are apart (half the sum of
    their differences, the mean over samples); of others the squared error relative to the variance."""
    if not classifier:
        return {"squared error": float(np.square(got - wanted).mean() / wanted.var())}
    done = are_probabilities(wanted)  # of int8 they do not add up to 1, and would be taken for logits
    sure, given = (one if done else np.exp(log_probabilities(one)) for one in (wanted, got))
    return {
        "agreement": float((wanted.argmax(1) == got.argmax(1)).mean()),
        "probability moved": float(np.abs(sure - given).sum(1).mean() / 2),
    }


def noisy(subject: Subject) -> Subject:
    """With Gaussian noise of one grey level on the test samples."""
    random = np.random.default_rng(SEED)
    test = {name: column + random.normal(0, subject.noise, column.shape) for name, column in subject.test.items()}
    return replace(subject, test={name: column.astype(np.float32) for name, column in test.items()})


def _truth(got: Array, subject: Subject) -> dict[str, float]:
    return {} if subject.truth is None else {"top-1": float((got.argmax(1) == subject.truth).mean())}


def by_tensorflow(subject: Subject) -> Graph:
    """Full integer, inputs and outputs too, by min-max on the same samples."""
    import tensorflow as tf

    def representative() -> Any:
        return (list(feed.values()) for feed in feeds(subject.samples))

    if type(subject.keras).__module__.startswith("tf_keras"):
        converter = tf.lite.TFLiteConverter.from_keras_model(subject.keras)
        return _converted(tf, converter, representative, subject)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as name:
        folder = Path(name) / "saved"
        if subject.keras is None:
            export(subject.graph, {}, draw_columns(subject.graph, {}), "savedmodel", folder)
        else:
            subject.keras.export(folder, verbose=False)
        return _converted(tf, tf.lite.TFLiteConverter.from_saved_model(str(folder)), representative, subject)


def _converted(tf: Any, converter: Any, representative: Callable[[], Any], subject: Subject) -> Graph:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if all(column.dtype == np.float32 for column in subject.samples.values()):
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet():
        return read_graph(converter.convert())


def by_quantizer(graph: Graph, samples: Columns) -> Graph:
    """Its static int8 recipe and its own calibration."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder, quiet():
        path = Path(folder) / "float.tflite"
        path.write_bytes(_signed(graph))
        writer = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        found = writer.calibrate({graph.signature.key or _KEY: list(feeds(samples))})
        return read_graph(bytes(writer.quantize(found).quantized_model))


def _signed(graph: Graph) -> bytes:
    """With a signature, without which ai-edge-quantizer does not calibrate."""
    if graph.signature.key:
        return graph.content
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    signature = schema.SignatureDefT()
    signature.signatureKey = _KEY
    signature.inputs, signature.outputs = (
        [_entry(tensor) for tensor in ends] for ends in (graph.inputs, graph.outputs)
    )
    model.signatureDefs = [signature]
    return write_model(model)


def _entry(tensor: Tensor) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = tensor.name, tensor.index
    return entry


def _named_as(graph: Graph, columns: Columns) -> Columns:
    """TensorFlow's converter has names of its own for a signature's only input."""
    return dict(zip(graph.signature.inputs, columns.values(), strict=True))


def averaged(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a model that was trained from several seeds the means: of a single one chance decides who is a point ahead."""

    def mean(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([one[key] for one in values if key in one]) for key in values[0]}
        return float(np.mean(values))

    first = records[0]
    if len(records) == 1:
        return first
    return {
        **first,
        "scores": mean([record["scores"] for record in records]),
        "from_float": mean([record["from_float"] for record in records]),
        "kept": [f"mean of {len(records)}"],
    }


def verdict(record: dict[str, Any]) -> str:
    """Ours as it is by default, unless it needs training, against float and the better of the others."""
    sign = -1 if "error" in record["metric"] else 1
    scores = {name: sign * value for name, value in record["scores"].items()}
    ours = scores.get("ours, trained" if record["needs_training"] else "ours")
    others = [scores[name] for name in _WAYS[1:3] if name in scores]
    if ours is None:
        return "MISSED"
    return "met" if ours >= scores["float"] - _FROM_FLOAT and ours >= max([*others, ours]) - _WORST else "MISSED"


def shown(record: dict[str, Any], way: str) -> str:
    if way not in record["scores"]:
        return "failed" if way in record["failures"] else "–"
    apart = record["from_float"].get(way, {})
    near = [f"{apart['agreement']:.2%}"] if "agreement" in apart else []
    near += [f"{value:.5f}" for name, value in apart.items() if name != "agreement"]
    return " ".join([f"{record['scores'][way]:.4f}", *near])


if __name__ == "__main__":
    main()
