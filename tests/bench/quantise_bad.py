"""``make bench-quantise_bad``: calibrations that are wrong on purpose, on ResNet8: what each way loses, who notices.

``loss``: float top-1 less int8 top-1 on 2,000 test images. The gate is ``--max-drop 0.01`` on the same images.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from common import finish
from edgekd.lint import lint
from edgekd_converters.condition import condition
from edgekd_converters.observe import Columns
from edgekd_converters.optimise import QuantizeOptions, make_int8
from edgekd_converters.quiet import import_tensorflow
from quantise import answers, by_quantizer, by_tensorflow, score
from quantise_models import Subject, resnet8

_TEST, _MOST_DROP, _SEED = 2000, 0.01, 0


def main() -> None:
    import_tensorflow()
    whole = resnet8()
    assert whole.labels is not None
    subject = Subject(
        whole.name,
        whole.keras,
        whole.graph,
        whole.samples,
        {name: column[:_TEST] for name, column in whole.test.items()},
        whole.labels[:_TEST],
        whole.sample_labels,
    )
    before, records = score(answers(subject.graph, subject), subject), {}
    for name, samples, labels in spoilt(subject):
        records[name] = {"loss": losses(subject, samples, before), **noticed(subject, samples, labels)}
        records[name]["gate"] = records[name]["loss"]["ours"] > _MOST_DROP
        print(name, records[name], flush=True)
    rows = [
        (
            name,
            *(f"{100 * loss:.2f}" for loss in record["loss"].values()),
            ", ".join(record["linter"]) or "–",
            "refuses" if record["gate"] else "–",
        )
        for name, record in records.items()
    ]
    # What nobody notices must not cost anything.
    missed = [
        name
        for name, record in records.items()
        if not record["linter"] and not record["gate"] and record["loss"]["ours"] > _MOST_DROP / 2
    ]
    result = {"float": before, "images": _TEST, "records": records, "missed": missed}
    headings = ("calibration", "TFLiteConverter", "ai-edge-quantizer", "ours", "linter", "gate")
    finish("quantise_bad", result, rows, headings)
    sys.exit(1 if missed else 0)


def spoilt(subject: Subject) -> list[tuple[str, Columns, Any]]:
    """Name, samples, their labels."""
    ((name, images),) = subject.samples.items()
    labels = subject.sample_labels
    assert labels is not None
    outliers = images.copy()
    outliers[np.random.default_rng(_SEED).choice(len(images), len(images) // 100, replace=False)] *= 100
    one = labels == 0
    return [
        ("as it should be", {name: images}, labels),
        ("8 samples", {name: images[:8]}, labels[:8]),
        ("one class only", {name: images[one]}, labels[one]),
        ("pixels / 255 where 0 … 255 is meant", {name: images / 255}, labels),
        ("1 % of samples × 100", {name: outliers}, labels),
    ]


def losses(subject: Subject, samples: Columns, before: float) -> dict[str, float]:
    other = Subject(subject.name, subject.keras, subject.graph, samples, subject.test, subject.labels, None)
    ours = make_int8(condition(subject.graph), samples, QuantizeOptions())
    made = {
        "TFLiteConverter": by_tensorflow(other),
        "ai-edge-quantizer": by_quantizer(subject.graph, samples),
        "ours": ours.int8_graph,
    }
    return {name: before - score(answers(graph, subject), subject) for name, graph in made.items()}


def noticed(subject: Subject, samples: Columns, labels: Any) -> dict[str, Any]:
    """The linter's findings, as ``edgekd convert --eval`` would ask it."""
    (public,) = subject.graph.signature.inputs
    (column,) = samples.values()
    (test,) = subject.test.values()
    found = lint(
        {public: column},
        subject.graph,
        targets=labels,
        evaluation={public: test},
        evaluation_targets=subject.labels,
        classes=10,
    )
    return {"linter": [finding.code for finding in found]}


if __name__ == "__main__":
    main()
