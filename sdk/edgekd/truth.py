"""What a data file's ``y`` says of a model's first output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError
from edgekd.fits import count_classes, is_autoencoder, public_inputs, public_outputs
from edgekd.metrics import Truth
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns


def truth_of(
    graph: Graph,
    columns: Columns,
    classes: npt.NDArray[np.int32] | None,
    values: npt.NDArray[Any] | None,
    path: Path,
    axes: tuple[int, ...] | None = None,
) -> Truth:
    """Raises ``DataError`` where ``values`` are not what the model could give.

    Args:
        columns: the model's inputs, which are what an autoencoder should give.
        classes: ``(n,)`` of a classifier.
        values: an array ``y`` of a model that is none: ``(n, …)`` as its output, or ``(n,)`` of 0 and 1, which are
            the odd rows of an autoencoder and the classes of a model that gives a single number.
        axes: of ``values`` in the source's layout, what takes them to the graph's.
    """
    if count_classes(graph) is not None:
        positives = classes == 1 if classes is not None and count_classes(graph) == 2 else None
        return Truth(classes=classes, positives=positives)
    (output, *_) = public_outputs(graph).values()
    marks = _marks(values)
    if is_autoencoder(graph):
        (name,) = public_inputs(graph)
        if values is not None and marks is None:
            raise DataError(f"{path}: 'y' of an autoencoder must be (n,) numbers 0 and 1, 1 for the odd rows")
        return Truth(values=np.asarray(columns[name], np.float32), positives=marks)
    if values is None:
        return Truth()
    wanted = values if axes is None or values.ndim != len(axes) else values.transpose(axes)
    if wanted.size != len(wanted) * int(np.prod(output.shape[1:])) or wanted.dtype.kind not in "fiub":
        shape = ", ".join(["n", *map(str, output.shape[1:])])
        raise DataError(f"{path}: 'y' must be numbers of shape [{shape}], as the model gives, not {list(values.shape)}")
    if not np.isfinite(wanted).all():
        raise DataError(f"{path}: 'y' holds NaN or infinity")
    single = int(np.prod(output.shape[1:])) == 1
    reals = wanted.astype(np.float32).reshape(-1, *output.shape[1:])
    return Truth(values=reals, positives=marks if single else None)


def _marks(values: npt.NDArray[Any] | None) -> npt.NDArray[np.bool_] | None:
    """``(n,)`` or ``(n, 1)`` integers 0 and 1, or booleans → which are 1."""
    if values is None or values.dtype.kind not in "iub" or values.size != len(values):
        return None
    flat = values.reshape(-1)
    return flat.astype(np.bool_) if np.isin(flat, (0, 1)).all() else None
