"""Front ends: a model of any format → :class:`~edgekd_converters.load.source.Source`, each in a file of its own.

They run in a child process; :func:`open_model` is what the rest of the tool sees of them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import RunError, SourceNotFoundError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.source import Layer, LoadOptions
from edgekd_converters.load.worker import Worker, start_worker
from edgekd_converters.observe import Columns, Feed

_OPEN_SECONDS = 3600
_RUN_SECONDS = 600
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Opened:
    """A :class:`~edgekd_converters.load.source.Source` that lives in a child process; its fields are the same."""

    format: str
    graph: Graph
    layouts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]
    _worker: Worker
    _folder: Path

    def run(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        """Any number of rows → every output, all rows, in the source's layout. Raises ``ConverterError``."""
        rows = min((len(column) for column in columns.values()), default=0)
        if not rows:
            raise RunError("there are no rows to run the model on")
        row_bytes = sum(column.nbytes // len(column) for column in columns.values())
        step = max(1, _CHUNK_BYTES // max(1, row_bytes))
        parts = [
            self._run({name: column[i : i + step] for name, column in columns.items()}) for i in range(0, rows, step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def layers(self, feed: Feed) -> list[Layer] | None:
        """The source's inner results on one sample, in the order of execution; None where they cannot be had."""
        named = self._ask("layers", feed)["layers"]
        if named is None:
            return None
        return [Layer(name, op, value) for (name, op), value in zip(named, self._arrays(len(named)), strict=True)]

    def _run(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        names = self._ask("run", columns)["names"]
        return dict(zip(names, self._arrays(len(names)), strict=True))

    def _ask(self, what: str, columns: Columns) -> dict[str, Any]:
        np.savez(self._folder / "request.npz", *columns.values())
        return self._worker.ask({"ask": what, "names": list(columns)}, _RUN_SECONDS)

    def _arrays(self, count: int) -> list[npt.NDArray[Any]]:
        with np.load(self._folder / "reply.npz", allow_pickle=False) as arrays:
            return [arrays[f"arr_{i}"] for i in range(count)]


@contextlib.contextmanager
def open_model(path: Path, options: LoadOptions | None = None) -> Iterator[Opened]:
    """Open a model of any format in a child process, for as long as the context lasts. Raises ``LoadError``."""
    options = options or LoadOptions()
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file")
    request = {
        "path": str(path.absolute()),
        "shapes": {name: list(sizes) for name, sizes in options.shapes.items()},
        "signature": options.signature,
        "trust": options.trust,
    }
    with tempfile.TemporaryDirectory(prefix="edgekd-load-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with start_worker(path, folder, trust=options.trust) as worker:
            reply = worker.ask(request, _OPEN_SECONDS)
            graph = read_graph((folder / "float.tflite").read_bytes())
            layouts = {end: tuple(axes) for end, axes in reply["layouts"].items()}
            yield Opened(reply["format"], graph, layouts, tuple(reply["notes"]), worker, folder)
