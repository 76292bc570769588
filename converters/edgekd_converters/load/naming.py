"""The source's names in the signature of the float graph, whatever TensorFlow makes of them on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph, read_graph, write_model

_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,60}")


def inner_names(kind: str, public: Sequence[str]) -> list[str]:
    """Names for TensorFlow, which changes and sorts them: as they are where it would keep them, else numbered."""
    return [name if _PLAIN.fullmatch(name) else f"{kind}_{i}" for i, name in enumerate(public)]


def rename(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """Give a signature of :func:`inner_names` the public names, in their order."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    signature = model.signatureDefs[0]
    main = model.subgraphs[signature.subgraphIndex]
    for kind, names in (("inputs", inputs), ("outputs", outputs)):
        entries = {entry.name.decode(): entry for entry in getattr(signature, kind)}
        inner = inner_names(kind[:-1], names)
        if missing := set(inner) ^ set(entries):
            raise LoadError(f"TensorFlow changed the model's {kind}: {', '.join(names)}; {min(missing)!r} differs")
        for name, public in zip(inner, names, strict=True):
            entries[name].name = public.encode()
        ordered = [entries[name] for name in inner]
        setattr(signature, kind, ordered)
        _order(main, kind, [entry.tensorIndex for entry in ordered])
    return read_graph(write_model(model))


def unique(names: Sequence[str]) -> list[str]:
    """Names in their order, a repeated one with a number behind it."""
    made: list[str] = []
    for name in names:
        number = 0
        while (candidate := f"{name}_{number}" if number else name) in made:
            number += 1
        made.append(candidate)
    return made


def _order(main: Any, kind: str, indices: list[int]) -> None:
    """The same order for those who go by position, where each place has a tensor of its own."""
    if sorted(indices) == sorted(int(index) for index in getattr(main, kind)):
        setattr(main, kind, np.array(indices, np.int32))
