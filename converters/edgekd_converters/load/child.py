"""A front end in a process of its own: ``python -m edgekd_converters.load.child``, which ends with its parent.

Foreign files meet foreign C++ here: a crash, a bomb or a leak takes this process and no other. Requests come as lines
of JSON on standard input, replies go as lines of JSON to standard output, arrays through files in the working folder,
which is this process's own.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd_converters.errors import ConverterError, LoadError, RunError
from edgekd_converters.graph import Graph
from edgekd_converters.load.formats import detect
from edgekd_converters.load.memory import limit_memory
from edgekd_converters.load.offline import refuse_network
from edgekd_converters.load.source import LoadOptions, Source
from edgekd_converters.load.tidy import with_flat_biases
from edgekd_converters.observe import Observer
from edgekd_converters.tflite_model import require_float32

_FRONT_ENDS = {
    "keras": "keras3",
    "h5": "keras2",
    "savedmodel": "savedmodel",
    "onnx": "onnx",
    "pt2": "torch",
    "torch": "torch",
    "tflite": "tflite",
}
_WITH_SIGNATURES = ("savedmodel", "tflite")
Message = dict[str, Any]


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output, which is the parent's
    refuse_network()
    source: Source | None = None
    for request in _requests():
        try:
            if source is None:
                source = open_source(Path(request["path"]), _options(request))
                reply = _describe(source)
            else:
                reply = _answer(source, request)
        except ConverterError as error:
            reply = _failure(type(error).__name__, str(error))
        except MemoryError:
            reply = _failure("LoadError", "it needs more memory than a model of its size may take")
        except Exception as error:  # a front end's own are LoadErrors; what else a library raises is told as it is
            reply = _failure("LoadError", f"{type(error).__name__}: {error}")
        print(json.dumps(reply), file=replies, flush=True)


def open_source(path: Path, options: LoadOptions) -> Source:
    """Whatever ``path`` is → a source whose graph has run once, within bounded memory. Raises ``LoadError``."""
    _limit(path)
    kind = detect(path)
    if options.signature is not None and kind not in _WITH_SIGNATURES:
        raise LoadError(f"{path}: --signature is for SavedModels; this is {kind}, which has none")
    source: Source = importlib.import_module(f"edgekd_converters.load.{_FRONT_ENDS[kind]}").open_source(path, options)
    require_float32(source.graph)
    source = replace(source, graph=with_flat_biases(source.graph))
    try:
        Observer(source.graph).run(_zeros(source.graph))
    except RunError as error:
        raise LoadError(f"{path}: {error}") from error
    return source


def _zeros(graph: Graph) -> dict[str, Any]:
    tensors = {tensor.name: tensor for tensor in graph.inputs}
    ends = {name: tensors[tensor] for name, tensor in graph.signature.inputs.items()}
    return {name: np.zeros(tensor.shape, tensor.dtype.lower()) for name, tensor in ends.items()}


def _answer(source: Source, request: Message) -> Message:
    with np.load("request.npz") as arrays:
        columns = {name: arrays[f"arr_{i}"] for i, name in enumerate(request["names"])}
    if request["ask"] == "run":
        made = source.run(columns)
        np.savez("reply.npz", *made.values())
        return {"names": list(made)}
    layers = list(source.layers(columns)) if source.layers else None
    if layers is None:
        return {"layers": None}
    np.savez("reply.npz", *(layer.value for layer in layers))
    return {"layers": [[layer.name, layer.op] for layer in layers]}


def _describe(source: Source) -> Message:
    Path("float.tflite").write_bytes(source.graph.content)
    return {"format": source.format, "layouts": dict(source.layouts), "notes": list(source.notes)}


def _options(request: Message) -> LoadOptions:
    shapes = {name: tuple(sizes) for name, sizes in request["shapes"].items()}
    return LoadOptions(shapes, request["signature"], request["trust"])


def _failure(kind: str, message: str) -> Message:
    return {"error": kind, "message": " ".join(message.split())[:600]}


def _requests() -> Iterator[Message]:
    """Lines of standard input. When it ends, which is when the parent does, so does this process, whatever it does."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        shutil.rmtree(Path.cwd(), ignore_errors=True)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _limit(path: Path) -> None:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    limit_memory(sum(file.stat().st_size for file in files if file.is_file()))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
