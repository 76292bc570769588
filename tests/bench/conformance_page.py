"""``docs/conformance.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from conformance_cases import ROWS, Family
from conformance_records import Record

STEPS = ("loads", "equivalent", "prunes", "int8")
_HEAD = """# Conformance

Which architectures go the whole way, from the format that they were written in to a full-integer model.
Written by `make bench-conformance`; do not edit by hand.

- **loads**: `edgekd` opens the file and makes a float32 graph of it.
- **equivalent**: the graph computes what the model's own framework computes on {rows} random samples: no output differs
  by more than 0.1 % of its range.
- **prunes**: 30 % or more of the multiply-accumulates leave (uniformly, by weight size: the quick way), and the result
  runs. `–` where there is nothing to remove.
- **int8**: the graph and the pruned one are calibrated on the same samples, become fully integer and run. *int8 error*
  is the root mean square of the difference to the float graph (before pruning), over that of the output. With random
  weights it says little about how accurate a trained model would be, and adds up with the depth; a model with more than
  0.5 does not pass if one op alone, other than a softmax, adds 0.5 of its values.

Weights are random. Those of `keras.applications` and of `light_*` (second table) are drawn by the size of each layer
(He), biases and batch norm's scales are not neutral, batch norm's statistics are measured on random images, and the
last layer is scaled so that a softmax is not saturated: as initialised, a deep network gives the same output for every
image, and any two graphs would be "equivalent".
"""


def page(
    families: Mapping[str, Family],
    records: Mapping[str, Mapping[str, Record | None]],
    nodes: Mapping[str, tuple[str, Record | None]],
) -> str:
    parts = [_HEAD.format(rows=ROWS), "\n".join(_summary(families, records, nodes))]
    parts += ["\n".join(_table(families[family], by_name)) for family, by_name in records.items()]
    parts.append("\n".join(_nodes(nodes)))
    parts.append("\n".join(_software([record for by_name in records.values() for record in by_name.values()])))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def passes(record: Record) -> bool:
    """Whether an architecture goes the whole way, or a test of a single op gives what is wanted."""
    if "ours" in record:
        return bool(record["ours"]["ok"])
    return all(record.get(step, {"ok": False})["ok"] is not False for step in STEPS)


def in_words(record: Record) -> str:
    """``ok``, or the first thing that went wrong."""
    return _why(record) or "ok"


def _why(record: Record) -> str:
    for step in STEPS:
        one = record.get(step)
        if one is None:
            return f"{step}: {record.get('ended', 'not reached')}"
        if one["ok"] is False:
            return f"{step}: {one['why']}"
    return ""


def _summary(
    families: Mapping[str, Family],
    records: Mapping[str, Mapping[str, Record | None]],
    nodes: Mapping[str, tuple[str, Record | None]],
) -> Iterator[str]:
    yield "| | cases | load | equivalent | prune, of those that can | int8 | whole way |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for family, by_name in records.items():
        done = [record for record in by_name.values() if record]
        of = {step: [record[step]["ok"] for record in done if step in record] for step in STEPS}
        prunes = f"{of['prunes'].count(True)} of {len(done) - of['prunes'].count(None)}"
        counts = " | ".join(prunes if step == "prunes" else str(of[step].count(True)) for step in STEPS)
        whole = sum(map(passes, done))
        left = f" ({len(by_name) - len(done)} not run)" if len(done) < len(by_name) else ""
        yield f"| {families[family].title} | {len(done)}{left} | {counts} | **{whole}** |"
    known = [record for _, record in nodes.values() if record]
    if known:
        passed = {side: sum(record[side]["ok"] for record in known) for side in ("ours", "plain")}
        yield ""
        yield (
            f"Of ONNX's {len(nodes):,} tests of single ops, {len(known):,} have been run: {passed['ours']} "
            f"({passed['ours'] / len(known):.0%}) give what is on file; through plain onnx2tf {passed['plain']} "
            f"({passed['plain'] / len(known):.0%}){_flex([record['plain'] for record in known])}."
        )


def _flex(plain: list[Record]) -> str:
    """Said where it is known of all that pass."""
    told = [one.get("flex") for one in plain if one["ok"]]
    if None in told:
        return ""
    return (
        f", {told.count(True)} of them by kernels of TensorFlow's own (Flex), which no device runtime has and our "
        "files never need"
    )


def _table(family: Family, by_name: Mapping[str, Record | None]) -> Iterator[str]:
    yield f"## {family.title}\n\n{family.about}\n"
    yield "| | size | loads | equivalent | prunes | int8 | int8 error | s | where not, why |"
    yield "| --- | ---: | :---: | :---: | :---: | :---: | ---: | ---: | --- |"
    for name, record in by_name.items():
        if record is None:
            yield f"| {name} | | | | | | | | not run |"
            continue
        marks = " | ".join(_mark(record.get(step)) for step in STEPS)
        size = f"{record['bytes'] / 1e6:.1f} MB" if record.get("bytes", 0) > 50_000 else ""
        error = record.get("int8", {}).get("rmse")
        said = f"{error:.3f}" if error is not None else ""
        yield f"| {name} | {size} | {marks} | {said} | {record['s']:.0f} | {_cell(_why(record))} |"


def _mark(one: Record | None) -> str:
    if one is None:
        return ""
    if one["ok"] is None:
        return "–"
    macs = one.get("macs")
    return ("✓" + (f" −{1 - macs[1] / macs[0]:.0%}" if macs else "")) if one["ok"] else "✗"


def _nodes(nodes: Mapping[str, tuple[str, Record | None]]) -> Iterator[str]:
    """By op: how many pass, and why the first that does not, does not."""
    known = {name: (op, record) for name, (op, record) in nodes.items() if record}
    yield "## ONNX: single ops\n"
    yield (
        "The package's `node` tests of the standard domain on tensors of numbers, without the `…_expanded` twins. A "
        "test passes when the float graph gives the outputs on file. All its inputs stay inputs, also where a real "
        "model has constants: many a test asks for shapes or axes at run time, which no model for a small device can "
        "have. Of plain onnx2tf the float32 file counts, in whatever order of axes fits best."
    )
    yield ""
    yield "| op | tests | ours | plain onnx2tf | where ours does not, why |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for op in sorted({op for op, _ in known.values()}):
        of_op = {name: record for name, (its, record) in known.items() if its == op and record}
        passed = {side: sum(record[side]["ok"] for record in of_op.values()) for side in ("ours", "plain")}
        whys = [f"{name}: {record['ours']['why']}" for name, record in of_op.items() if not record["ours"]["ok"]]
        more = f" (and {len(whys) - 1} more)" if len(whys) > 1 else ""
        why = f"{_cell(whys[0])}{more}" if whys else ""
        yield f"| {op} | {len(of_op)} | {passed['ours']} | {passed['plain']} | {why} |"


def _software(records: list[Record | None]) -> Iterator[str]:
    done = [record for record in records if record]
    stale = sum(record["stale"] for record in done)
    versions: dict[str, Any] = done[0]["versions"] if done else {}
    yield "## Made with\n"
    yield ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    if stale:
        yield f"\n{stale} of the {len(done)} rows were measured before the last change of the converters."


def _cell(text: str) -> str:
    """One line of plain text, safe in a table."""
    line = " ".join(text.split()).replace("|", "/").replace("<", "‹").replace(">", "›")
    return line if len(line) <= 220 else line[:219] + "…"
