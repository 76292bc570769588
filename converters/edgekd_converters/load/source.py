"""What every front end takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns, Feed


@dataclass(frozen=True)
class LoadOptions:
    """``shapes``: input name → sizes, for what the model leaves open, in the source's own layout, the batch included.

    ``signature``: which of a SavedModel's signatures. ``trust``: code stored in the model may run.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    signature: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class Layer:
    """One inner result of the source on one sample. ``value``: in the source's own layout, the batch included."""

    name: str
    op: str
    value: npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """A model as its own framework runs it, and the float32 graph made of it.

    ``graph``: a batch of 1; its signature has the source's names of inputs and outputs, in the source's order.
    ``layouts``: for every public input or output whose axes the graph has in another order, the permutation that takes
    the source's array to the graph's: ``graph_array = source_array.transpose(axes)``, ``(0, 2, 3, 1)`` for NCHW.
    ``run``: columns in the source's layout, any number of rows → every public output, in the source's layout.
    ``layers``: one sample → the inner results, in the order of execution; None where they cannot be had.
    """

    format: str
    graph: Graph
    run: Callable[[Columns], dict[str, npt.NDArray[Any]]]
    layers: Callable[[Feed], Iterator[Layer]] | None = None
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
