"""What the conformance table has rows for: how each model is made, and what it is fed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT
from edgekd_converters.observe import Columns

sys.path.insert(0, str(ROOT))  # the zoos are the tests'

ROWS = 8


@dataclass(frozen=True)
class Made:
    """``columns``: samples in the model's own layout. ``known``: one more, and the answers to it that are on file."""

    path: Path
    columns: Columns
    known: tuple[Columns, Columns] | None = None


@dataclass(frozen=True)
class Family:
    """``make``: name of a case and an empty folder → the model. ``about``: a line on what it is, for the page."""

    title: str
    about: str
    names: Callable[[], list[str]]
    make: Callable[[str, Path], Made]


def _keras_names() -> list[str]:
    import conformance_keras

    return conformance_keras.architectures()


def _keras(name: str, folder: Path) -> Made:
    import conformance_keras

    path, columns = conformance_keras.write(name, folder, ROWS)
    return Made(path, columns)


def _torch_names() -> list[str]:
    from tests.converters import torch_zoo

    return list(torch_zoo.ARCHITECTURES)


def _torch(name: str, folder: Path) -> Made:
    import torch
    from tests.converters import torch_zoo

    path, shape = folder / f"{name}.pt2", torch_zoo.shape(name)
    program = torch_zoo.program(name)
    torch.export.save(program, str(path))
    (given,) = program.graph_signature.user_inputs
    rng = np.random.default_rng(1)
    means = rng.normal(size=(ROWS, shape[1], 1, 1))
    return Made(path, {str(given): rng.normal(means, size=(ROWS, *shape[1:])).astype(np.float32)})


def _zoo_names() -> list[str]:
    from tests.converters import zoo

    return list(zoo.ZOO)


def _zoo(name: str, folder: Path) -> Made:
    from tests.converters import zoo

    graph = zoo.graph(name)
    path = folder / f"{name}.tflite"
    path.write_bytes(graph.content)
    return Made(path, zoo.samples(graph, ROWS, seed=1))


def _light_drawn(name: str, folder: Path) -> Made:
    import conformance_onnx

    path = conformance_onnx.write_drawn(name, folder)
    return Made(path, {conformance_onnx.input_name(path): conformance_onnx.images(ROWS, seed=1)})


def _onnx(folder_name: str) -> tuple[Callable[[], list[str]], Callable[[str, Path], Made]]:
    def names() -> list[str]:
        import conformance_onnx

        return conformance_onnx.names(folder_name)

    def make(name: str, folder: Path) -> Made:
        import conformance_onnx

        known = conformance_onnx.published(folder_name, name)
        path = conformance_onnx.model_path(folder_name, name)
        return Made(path, conformance_onnx.varied(known[0], ROWS), known)

    return names, make


def _families() -> dict[str, Family]:
    any_of: dict[str, Any] = {
        name: _onnx(name) for name in ("light", "pytorch-converted", "pytorch-operator", "simple")
    }
    return {
        "zoo": Family("Our zoo", "The architectures that the tests prune, as `.tflite`.", _zoo_names, _zoo),
        "keras": Family(
            "keras.applications",
            "Every class, `weights=None`, 96 × 96 pixels, 10 classes, as `.keras`.",
            _keras_names,
            _keras,
        ),
        "torch": Family(
            "torchvision's families",
            "The test suite's own modules, narrow and shallow, as `.pt2`.",
            _torch_names,
            _torch,
        ),
        "light": Family(
            "ONNX: light_* as published",
            "Every weight is 0.02. Equivalent means: to the outputs that the package has on file.",
            *any_of["light"],
        ),
        "light-drawn": Family(
            "ONNX: light_* with random weights",
            "The same networks with weights under which channels and images differ.",
            any_of["light"][0],
            _light_drawn,
        ),
        **{
            name: Family(
                f"ONNX: {name}", "Equivalent means: to the outputs that the package has on file.", *any_of[name]
            )
            for name in ("pytorch-converted", "pytorch-operator", "simple")
        },
    }


FAMILIES = _families()
