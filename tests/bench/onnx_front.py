"""``make bench-onnx_front``: EfficientNet-Lite0 from ONNX, beside onnx2tf as its users call it, and in int8."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

import photographs
from common import SHARED, finish, need, ready_for_onnx2tf
from edgekd.verify import run_graph
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.observe import feeds
from edgekd_converters.quantize import quantize_int8

Array = npt.NDArray[Any]
MODEL = SHARED / "efficientnet_lite0" / "efficientnet_lite0.onnx"
COMPARED, CALIBRATION, TEST = 100, 240, 400
LARGEST_DIFFERENCE, LEAST_AGREEMENT = 1e-3, 0.90
_OURS = (
    "import sys, pathlib; from edgekd_converters.load.onnx import open_source; "
    "from edgekd_converters.load.source import LoadOptions; "
    "source = open_source(pathlib.Path(sys.argv[1]), LoadOptions()); "
    "pathlib.Path('float.tflite').write_bytes(source.graph.content)"
)


def main() -> None:
    model = need(MODEL)
    pictures = photographs.load()
    calibration = _preprocessed(photographs.crops(pictures, photographs.SEEN, CALIBRATION, 224, seed=1))
    test = _preprocessed(photographs.crops(pictures, photographs.IMAGENET, TEST, 224, seed=2))
    with tempfile.TemporaryDirectory(prefix="edgekd-") as name:
        ours = _converted(Path(name) / "ours", model, [sys.executable, "-c", _OURS, str(model)])
        plain = _converted(Path(name) / "plain", model, [_program("onnx2tf"), "-i", "m.onnx", "-o", "out"])
    wanted = _onnxruntime(model, test)
    differences = [
        _difference(content, test[:COMPARED], wanted[:COMPARED]) for content in (ours["content"], plain["content"])
    ]
    agreement = _int8_agreement(read_graph(ours["content"]), calibration, test, wanted)
    met = {"difference": differences[0] <= LARGEST_DIFFERENCE, "int8 agreement": agreement >= LEAST_AGREEMENT}
    result = {
        "photographs": len(pictures),
        "crops": {"compared": COMPARED, "calibration": CALIBRATION, "test": TEST},
        "ours": {key: ours[key] for key in _FIGURES} | {"difference": differences[0]},
        "onnx2tf": {key: plain[key] for key in _FIGURES} | {"difference": differences[1]},
        "int8 top-1 agreement with float": agreement,
        "met": met,
    }
    rows = [
        (heading, *(form.format(one[key]) for one in (ours, plain)))
        for heading, key, form in (
            ("seconds of CPU", "cpu_s", "{:.1f}"),
            ("seconds, start to end", "wall_s", "{:.1f}"),
            ("peak memory, MB", "peak_mb", "{:.0f}"),
            ("files left behind", "files", "{}"),
        )
    ]
    rows.append(("largest difference of a logit", *(f"{difference:.1e}" for difference in differences)))
    rows.append(("int8 top-1 agreement", f"{agreement:.1%}", ""))
    finish("onnx_front", result, rows, ("EfficientNet-Lite0", "edgekd", "onnx2tf"))
    for name, good in met.items():
        print(f"{name}: {'met' if good else 'MISSED'}")
    sys.exit(0 if all(met.values()) else 1)


_FIGURES = ("cpu_s", "wall_s", "peak_mb", "files")


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _converted(folder: Path, model: Path, command: list[str]) -> dict[str, Any]:
    """Run a converter in a folder of its own that has what onnx2tf would download; what it takes and the result."""
    folder.mkdir()
    shutil.copy(model, folder / "m.onnx")
    environment = ready_for_onnx2tf(folder)
    before = set(folder.rglob("*"))
    print("$", *(word if len(word) < 80 else "…" for word in command), flush=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    made = sorted(path for path in folder.rglob("*") if path.is_file() and path not in before)
    models = [path for path in made if path.name.endswith(("float.tflite", "float32.tflite"))]
    if process.returncode or not models:
        print(f"the command failed with {process.returncode}")
        sys.exit(1)
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(wall, 1),
        "peak_mb": round(usage.ru_maxrss / 1000),
        "files": len(made) - 1,  # all but the one that was asked for
        "content": models[0].read_bytes(),
    }


def _preprocessed(pixels: Array) -> Array:
    """``(n, 224, 224, 3) float32``, as the network was trained."""
    return ((pixels - 127.0) / 128.0).astype(np.float32)


def _onnxruntime(model: Path, images: Array) -> Array:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None].transpose(0, 3, 1, 2)})[0] for image in images])


def _difference(content: bytes, images: Array, wanted: Array) -> float:
    graph = read_graph(content)
    (name,) = graph.signature.inputs
    return float(np.abs(run_graph(graph, {name: images}) - wanted).max())


def _int8_agreement(graph: Graph, calibration: Array, test: Array, wanted: Array) -> float:
    """Share of test images to which int8 and onnxruntime give the same class."""
    (name,) = graph.signature.inputs
    graph = condition(graph)
    int8 = quantize_int8(graph, calibrate_minmax(graph, feeds({name: calibration})))
    return float((run_graph(int8, {name: test}).argmax(1) == wanted.argmax(1)).mean())


if __name__ == "__main__":
    main()
