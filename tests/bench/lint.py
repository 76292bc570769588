"""What the linter says about good and spoilt samples of real models; ``make bench-lint``.

It must be silent on the good ones and name every change of ``CHANGES``; other models' normalisations are shown beside
them, not asked for. EfficientNet-Lite0 sees CIFAR-10's pictures enlarged to 224 × 224.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

import cifar10
from common import RESULTS, SHARED, finish, need
from edgekd.cache import cache_root
from edgekd.lint import lint
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load import open_model
from edgekd_runtime import atomic

Array = npt.NDArray[Any]
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Subject:
    """``kind``: how the model wants its pictures, of the keys of ``KINDS``."""

    name: str
    graph: Graph
    kind: str
    pictures: Array
    labels: Array | None
    classes: int


KINDS: dict[str, Callable[[Array], Array]] = {
    "0 to 255": lambda unit: unit * 255,
    "0 to 1": lambda unit: unit,
    "-1 to 1": lambda unit: unit * 2 - 1,
    "ImageNet's": lambda unit: (unit - MEAN) / STD,
}
CHANGES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "divided by 255": (lambda x: x / 255, "scale"),
    "times 255": (lambda x: x * 255, "scale"),
    "normalised twice": (lambda x: x / 65025 if x.max() > 3 else (x - MEAN) / STD, "scale"),
    "BGR": (lambda x: x[..., ::-1], "channel-order"),
    "NCHW": (lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape), "layout"),
    "8 samples": (lambda x: x[:8], "too-few"),
    "1 % of values times 100": (
        lambda x: np.where(np.random.default_rng(0).random(x.shape) < 0.01, x * 100, x),
        "outliers",
    ),
    "1 % of rows times 100": (
        lambda x: np.where(np.arange(len(x))[:, None, None, None] % 100 == 1, x * 100, x),
        "outliers",
    ),
    "NaN": (lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size // 2, np.nan, x), "nan"),
    "all the same": (lambda x: np.repeat(x[:1], len(x), 0), "constant"),
}


def resnet8() -> Subject:
    graph = read_graph((need(SHARED / "mlperf_tiny_resnet8") / "pretrainedResnet.tflite").read_bytes())
    *_, images, labels = cifar10.load(cache_root() / "cifar10")
    return Subject("ResNet8", graph, "0 to 255", images[:500], labels[:500], 10)


def efficientnet() -> Subject:
    made = RESULTS / "lint" / "efficientnet_lite0.tflite"
    if not made.is_file():
        with open_model(need(SHARED / "efficientnet_lite0") / "efficientnet_lite0.onnx") as opened:
            atomic.write_bytes(made, opened.graph.content)
    *_, images, _ = cifar10.load(cache_root() / "cifar10")
    large = [
        np.asarray(Pillow.fromarray(image).resize((224, 224), Pillow.Resampling.BICUBIC)) for image in images[:320]
    ]
    return Subject("EfficientNet-Lite0", read_graph(made.read_bytes()), "ImageNet's", np.stack(large), None, 1000)


def examine(subject: Subject, samples: Array, labels: Array | None) -> tuple[list[str], float]:
    """The codes, and the seconds of CPU it took."""
    start = time.process_time()
    columns = {next(iter(subject.graph.signature.inputs)): np.ascontiguousarray(samples, np.float32)}
    found = lint(
        columns, subject.graph, classes=subject.classes, targets=None if labels is None else labels[: len(samples)]
    )
    return [finding.code for finding in found], time.process_time() - start


def cases(subject: Subject) -> Iterator[tuple[str, Array, str]]:
    """(what the samples are like, they, the code that is wanted, "" for none), one at a time since they are large."""
    unit = subject.pictures.astype(np.float32) / 255
    good = KINDS[subject.kind](unit)
    yield "good", good, ""
    for name, (change, code) in CHANGES.items():
        yield name, change(good), code
    for kind, make in KINDS.items():
        if kind != subject.kind:
            yield kind, make(unit), "scale"


def main() -> None:
    rows, result = [], []
    for subject in (resnet8(), efficientnet()):
        for name, samples, wanted in cases(subject):
            for labels in [None] if subject.labels is None else [None, subject.labels]:
                codes, seconds = examine(subject, samples, labels)
                met = codes == ([wanted] if wanted else [])
                how = "yes" if labels is not None else "no"
                rows.append(
                    (
                        subject.name,
                        name,
                        how,
                        ", ".join(codes) or "–",
                        f"{seconds:.1f}",
                        "as it should" if met else "MISSED",
                    )
                )
                result.append({"model": subject.name, "samples": name, "labels": how, "codes": codes, "met": met})
    finish("lint", {"cases": result}, rows, ("model", "samples", "labels", "found", "CPU s", ""))
    sys.exit(0 if all(case["met"] for case in result if case["samples"] in ("good", *CHANGES)) else 1)


if __name__ == "__main__":
    main()
