"""Rows through a model that takes one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import RunError
from edgekd_converters.observe import Columns, Feed

Outputs = dict[str, npt.NDArray[Any]]
BATCH = 32


def in_batches(
    call: Callable[[Feed], Outputs], columns: Columns, inputs: Mapping[str, npt.DTypeLike], batch: int = BATCH
) -> Outputs:
    """``call`` on ``batch`` rows at a time, in the dtypes of ``inputs``; all rows of every output.

    Raises ``RunError`` when the columns are not the model's inputs.
    """
    if wrong := set(columns) ^ set(inputs):
        raise RunError(f"the samples and the model's inputs differ by {min(wrong)!r}; it takes {', '.join(inputs)}")
    rows = len(next(iter(columns.values())))
    made = [
        call({name: np.asarray(columns[name][i : i + batch], dtype) for name, dtype in inputs.items()})
        for i in range(0, rows, batch)
    ]
    if not made:
        raise RunError("there are no rows to run the model on")
    return {name: np.concatenate([outputs[name] for outputs in made]) for name in made[0]}
