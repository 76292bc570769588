"""``report.json`` of a conversion: what was measured on the way, for people and machines."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 1


def percent(fraction: float | None) -> str:
    """``0.9263`` → ``92.63 %``; nothing measured → a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def kilobytes(count: int) -> str:
    """Bytes → ``806.1 kB``, of 1000 bytes."""
    return f"{count / 1000:.1f} kB"


def convert_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of the table that ``edgekd convert`` prints."""
    accuracy, worst = report["accuracy"], report["worst_layer"]
    rows = [
        ("float model", kilobytes(report["bytes"]["float"])),
        ("int8 model", kilobytes(report["bytes"]["int8"])),
        ("integer ops", percent(report["integer_op_fraction"])),
        (
            "invoke float / int8",
            f"{report['invoke_us']['float']:.1f} / {report['invoke_us']['int8']:.1f} µs on this machine",
        ),
        ("agreement float–int8", percent(report["agreement"])),
        ("worst layer error", f"{percent(worst['relative_rmse'])} at {worst['op']} {worst['tensor']!r}"),
    ]
    if accuracy:
        rows.insert(2, ("float accuracy", percent(accuracy["float"])))
        rows.insert(3, ("int8 accuracy", percent(accuracy["int8"])))
    if scope := report["out_of_scope"]:
        rows.append(("in scope accepted", percent(scope["in_scope_accepted"])))
        if scope["out_of_scope_rejected"] is not None:
            rows.append(("out of scope refused", percent(scope["out_of_scope_rejected"])))
    return rows
