"""The picture of ``make bench-prune``: accuracy of the int8 models against the share of multiply-accumulates left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; the marks differ as well.
_STYLES = (("#0072B2", "o"), ("#E69F00", "s"), ("#000000", "^"), ("#CC79A7", "D"))
_DASH: dict[str, Any] = {"markersize": 22, "markeredgewidth": 2.5}

Curve = Sequence[tuple[float, float]]
"""(share of multiply-accumulates left, top-1), both fractions of 1."""


def draw(path: Path, title: str, original: float, curves: Mapping[str, Curve], asked: Mapping[str, Curve]) -> None:
    """Write a PNG. ``original``: top-1 of the unpruned model. ``asked``: targets, under the names of their curves."""
    with rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        axes.axhline(100 * original, color="#777777", linestyle="--", linewidth=1)
        axes.plot(100, 100 * original, color="#777777", marker="*", markersize=13, linestyle="none", label="not pruned")
        for (name, curve), (colour, mark) in zip(curves.items(), _STYLES, strict=False):
            shares, scores = zip(*[(100 * share, 100 * score) for share, score in sorted(curve)], strict=True)
            axes.plot(shares, scores, color=colour, marker=mark, markersize=7, linewidth=2, label=name)
            for share, score in asked.get(name, ()):
                axes.plot(100 * share, 100 * score, color=colour, marker="_", **_DASH)
        if any(asked.get(name) for name in curves):
            axes.plot([], [], color="#777777", marker="_", linestyle="none", label="asked for", **_DASH)
        axes.set_xlim(102, 18)
        axes.set_xlabel("multiply-accumulates left, %")
        axes.set_ylabel("int8 top-1 on the 10,000 test images, %")
        axes.set_title(title, loc="left", fontsize=12)
        above = axes.secondary_xaxis("top", functions=(_inverse, _inverse))
        above.set_xticks([1, 1.5, 2, 3, 4], ["1×", "1.5×", "2×", "3×", "4× fewer"])
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.legend(loc="lower left", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def _inverse(values: Any) -> Any:
    """Percent left ↔ how many times fewer."""
    return 100 / np.maximum(values, 1e-3)
