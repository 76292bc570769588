"""A teacher's word on every sample, asked once before training begins instead of in every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters import augment
from edgekd_converters.distance import logits_of
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program

VIEWS = 8
_MOST_BYTES = 1 << 29


def lessons(
    teacher: Program, samples: Columns, augmented: tuple[str, ...], batch: int, passes: int, rng: np.random.Generator
) -> list[npt.NDArray[np.float32]] | None:
    """The teacher's ``logits_of`` for each sample, one ``(n, size) float32`` an output.

    A changed image is still of its class. So where training changes images, a classifier's word is the mean over
    :data:`VIEWS` such changes, or ``passes`` if training takes fewer: the teacher contradicts itself from one to the
    next, and the mean is more often right (as in Radosavovic et al. 2018, "Data Distillation").

    None where each step must ask anew: where an output is no vector, or is no classifier's and images are changed, or
    where it would take too much memory.
    """
    count = len(next(iter(samples.values())))
    shapes = [tensor.shape for tensor in teacher.graph.results]
    if any(len(shape) != 2 or (augmented and shape[1] < 2) for shape in shapes):
        return None
    if 4 * count * sum(shape[1] for shape in shapes) > _MOST_BYTES:
        return None

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def ask(feeds: dict[str, Any]) -> list[Any]:
        return logits_of(teacher.graph, teacher.run(feeds))

    totals = [np.zeros((count, shape[1]), np.float32) for shape in shapes]
    views = max(1, min(VIEWS, passes)) if augmented else 1
    for view in range(views):
        for start in range(0, count, batch):
            rows = slice(start, start + batch)
            part = {name: column[rows] for name, column in samples.items()}
            for total, logits in zip(totals, ask(augment.apply(part, augmented if view else (), rng)), strict=True):
                total[rows] += np.asarray(logits) / views
    return totals
