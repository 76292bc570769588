"""Ops that keep every value where it is, or take several together."""

from __future__ import annotations

from edgekd_converters.channels import Axes, Ends, Rule, opaque
from edgekd_converters.ops.rules.layers import fix


def unary(ends: Ends) -> None:
    """Value by value: relu, sigmoid, cast …"""
    ends.gives(ends.axes(0))


def elementwise(ends: Ends) -> None:
    """Value by value over operands that are broadcast against each other."""
    rank = len(ends.op.outputs[0].shape)
    out: Axes = [None] * rank
    for back in range(1, rank + 1):
        sides = [
            (ends.shape(slot)[-back], ends.axes(slot)[-back])
            for slot in range(len(ends.op.slots))
            if back <= len(ends.shape(slot))
        ]
        many = [labels for size, labels in sides if size > 1]
        if many:
            out[-back] = many[0]
            for labels in many[1:]:
                out[-back] = ends.unite(out[-back], labels)
    ends.gives(out)


def spatial(ends: Ends) -> None:
    """Pooling, resizing, blocks of pixels: only the last axis carries channels."""
    fix(ends, 0, -1)
    ends.gives([*([None] * (len(ends.shape(0)) - 1)), ends.axes(0)[-1]])


def along_last(ends: Ends) -> None:
    """Softmax and the like: every value of the last axis counts for every other."""
    axes = ends.axes(0)
    ends.freeze(axes[-1])
    ends.gives([*axes[:-1], None])


def reduction(*, sums: bool) -> Rule:
    """Over fixed axes channels pass. A sum may lose a term; a mean, a maximum or a product would change."""

    def rule(ends: Ends) -> None:
        axes, over = ends.axes(0), ends.value(1)
        if over is None:
            opaque(ends)
            return
        gone = {axis % len(axes) for axis in over}
        for axis in gone:
            ends.contracts(0, axis) if sums else ends.freeze(axes[axis])
        if ends.options.keepDims:
            ends.gives([None if axis in gone else labels for axis, labels in enumerate(axes)])
        else:
            ends.gives([labels for axis, labels in enumerate(axes) if axis not in gone])

    return rule


def arg_extreme(ends: Ends) -> None:
    axes, over = ends.axes(0), ends.value(1)
    if over is None:
        opaque(ends)
        return
    gone = over[0] % len(axes)
    ends.freeze(axes[gone])
    ends.gives([labels for axis, labels in enumerate(axes) if axis != gone])


def cumsum(ends: Ends) -> None:
    axes, over = ends.axes(0), ends.value(1)
    if over is None:
        opaque(ends)
        return
    ends.freeze(axes[over[0]])
    ends.gives([None if axis == over[0] % len(axes) else labels for axis, labels in enumerate(axes)])
