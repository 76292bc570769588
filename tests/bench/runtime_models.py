"""The models that ``make bench-runtime`` serves: bundles for us, and the same weights as peers take them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import photographs
from common import RESULTS, ROOT, SHARED, edgekd, need
from edgekd_converters.graph import read_graph
from edgekd_runtime.backend import open_model
from edgekd_runtime.bundle import Bundle, Golden, load_bundle
from edgekd_runtime.engine import Engine

FOLDER = RESULTS / "runtime"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CALIBRATION = 64


@dataclass(frozen=True)
class Served:
    """``onnx`` is the same network in float32: onnxruntime's users seldom have another. ``text``: what is asked of a
    model of texts; of the others it is a tensor."""

    name: str
    bundle: Path
    onnx: Path
    text: str | None = None

    @cached_property
    def engine(self) -> Engine:
        """With one thread, for the bare reference."""
        return Engine(load_bundle(self.bundle), threads=1)

    @cached_property
    def tflite(self) -> Path:
        """The model alone, with what peers need to know beside it."""
        path = FOLDER / f"{self.name}.tflite"
        path.write_bytes(bytes(self.engine.bundle.model))
        preprocess = self.engine.bundle.preprocess
        described = preprocess.to_dict() if preprocess else None
        path.with_suffix(".json").write_text(json.dumps(described), encoding="utf-8")
        return path

    @cached_property
    def row(self) -> npt.NDArray[Any]:
        """The model's input for one request, batch 1, as stored."""
        if self.text is not None:
            return self.engine.preprocess(self.text)[0]
        return self.engine.store({name: array[:1] for name, array in self.engine.golden_inputs().items()})[0]


def text() -> Served:
    """The student of ``make demo``."""
    demo = ROOT / "build" / "demo"
    bundle, onnx = demo / "bundle" / "customer_service.edgekd", FOLDER / "text.onnx"
    if not bundle.is_file():
        command = [sys.executable, str(ROOT / "examples" / "customer_service" / "demo.py"), "--output", str(demo)]
        subprocess.run([*command, "--no-serve"], check=True)
    if not onnx.is_file():
        edgekd("export", demo / "student", "--to", "onnx", "--output", onnx)
    return Served("text", bundle, onnx, "where is my parcel? it should have been here two days ago")


def resnet8() -> Served:
    """MLPerf Tiny's reference int8 model, as it is."""
    source = need(SHARED / "mlperf_tiny_resnet8")
    bundle, onnx = FOLDER / "resnet8.edgekd", FOLDER / "resnet8.onnx"
    if not bundle.is_file():
        _pack(source / "pretrainedResnet_quant.tflite", bundle)
    if not onnx.is_file():
        edgekd("export", source / "pretrainedResnet.h5", "--to", "onnx", "--output", onnx)
    return Served("resnet8", bundle, onnx)


def efficientnet() -> Served:
    """EfficientNet-Lite0 from its ONNX file, calibrated on crops of photographs, and taking rows of (h, w, c)."""
    onnx = need(SHARED / "efficientnet_lite0" / "efficientnet_lite0.onnx")
    bundle = FOLDER / "efficientnet.edgekd"
    if not bundle.is_file():
        crops = photographs.crops(photographs.load(), photographs.SEEN, _CALIBRATION, 224, seed=1)
        samples = FOLDER / "crops.npy"
        np.save(samples, ((crops - 127.0) / 128.0).astype(np.float32).transpose(0, 3, 1, 2))
        edgekd("convert", onnx, "--samples", samples, "--output", FOLDER / "converted")
        (made,) = (FOLDER / "converted").glob("*.edgekd")
        loaded = load_bundle(made)
        Bundle(**{**vars(loaded), "name": "efficientnet", "layouts": {}}).save(bundle)
    return Served("efficientnet", bundle, onnx)


def _pack(tflite: Path, bundle: Path) -> None:
    graph = read_graph(tflite.read_bytes())
    backend = open_model(graph.content, graph.signature.inputs, graph.signature.outputs, threads=1)
    (spec,), (output,) = backend.inputs, backend.outputs
    rows = np.random.default_rng(0).integers(-128, 128, (8, *spec.shape[1:])).astype(np.int8)
    answers = np.concatenate([backend.invoke([row[None]])[0] for row in rows])
    Bundle(
        name=bundle.stem,
        model=graph.content,
        precision="int8",
        inputs=graph.signature.inputs,
        outputs=graph.signature.outputs,
        scores="probabilities",
        labels=CIFAR10,
        golden=Golden({spec.name: rows}, {output.name: answers}, backend.name),
    ).save(bundle)
