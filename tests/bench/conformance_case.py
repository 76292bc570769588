"""One row of the conformance table, in a process of its own: ``conformance_case.py FAMILY NAME RECORD``."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from conformance_cases import FAMILIES, Made
from edgekd.layers import layer_errors
from edgekd.verify import run_graph
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.cost import count_macs, graph_shapes, op_macs
from edgekd_converters.errors import ConverterError, PruneError, QuantizeError
from edgekd_converters.graph import Graph
from edgekd_converters.load import Opened, open_model
from edgekd_converters.load.equivalence import check, to_graph
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.prune import PruneOptions, plan_pruning, prune
from edgekd_converters.quantize import quantize_int8
from edgekd_converters.quiet import quiet

MEMORY_BYTES = 14 << 30
_AMOUNT = 0.3
_MOST_ERROR = 0.5


def main() -> None:
    family, name, record = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    results: dict[str, Any] = {}
    for _ in run(family, name, results):  # after every step what is known so far, should the next one crash
        Path(record).write_text(json.dumps(results), encoding="utf-8")


def run(family: str, name: str, results: dict[str, Any]) -> Iterator[None]:
    """Fill ``results`` step by step: step → ``{"ok": …, "why" or figures, "s": seconds}``."""
    with tempfile.TemporaryDirectory(prefix="edgekd-conformance-") as folder, ExitStack() as stack:
        with quiet():
            made = FAMILIES[family].make(name, Path(folder))
        results["bytes"] = made.path.stat().st_size
        hidden = f"{made.path}: "  # from what is said
        with _step(results, "loads", hidden):
            opened = stack.enter_context(open_model(made.path))
        yield
        if not results["loads"]["ok"]:
            return
        graph, columns = opened.graph, to_graph(made.columns, opened.layouts)
        with _step(results, "equivalent", hidden) as figures:
            figures |= equivalence(opened, made)
        yield
        with _step(results, "prunes", hidden) as figures:
            graph = pruned(graph, columns, figures)
        yield
        with _step(results, "int8", hidden) as figures:
            figures["rmse"] = int8_error(opened.graph, graph, columns)
        yield


@contextmanager
def _step(results: dict[str, Any], name: str, hidden: str) -> Iterator[dict[str, Any]]:
    """Times it; whatever goes wrong is written down. One line."""
    start = time.perf_counter()
    figures: dict[str, Any] = {"ok": True}
    try:
        yield figures
    except (ConverterError, MemoryError) as error:
        figures |= {"ok": False, "why": str(error).replace(hidden, "") or type(error).__name__}
    except Exception as error:  # not one of ours: a bug, and to be told as one
        figures |= {"ok": False, "why": f"{type(error).__name__}: {error}", "bug": True}
    figures["s"] = round(time.perf_counter() - start, 1)
    results[name] = figures


def equivalence(opened: Opened, made: Made) -> dict[str, Any]:
    """Largest difference as a share of what is allowed, on all rows; or on the one row that has a known answer."""
    run_source: Callable[[Columns], Any] = opened.run
    columns = made.columns
    if made.known is not None:
        columns, expected = made.known
        run_source = lambda _: expected  # noqa: E731
    result = check(opened.graph, opened.layouts, columns, run_source, opened.layers)
    return {"difference": result.max_difference, "excess": result.worst.excess}


def pruned(graph: Graph, columns: Columns, figures: dict[str, Any]) -> Graph:
    """The quick way. A model of one layer or none stays as it is."""
    if sum(op_macs(op, graph_shapes) > 0 for op in graph.main) < 2:  # all its channels are inputs or outputs
        figures["ok"] = None
        return graph
    options = PruneOptions(_AMOUNT, uniform=True, importance="weight", refit=False)
    plan = plan_pruning(graph, columns, options)
    slim = prune(graph, plan, columns, options)
    if not np.isfinite(run_graph(slim, columns)).all():
        raise PruneError("the pruned graph gives NaN or infinity")
    figures |= {"macs": [count_macs(graph), count_macs(slim)]}
    return slim


def int8_error(original: Graph, slim: Graph, columns: Columns) -> float:
    """Full int8 against float: root mean square of the difference over that of the output.

    It is the original's, whose outputs are drawn to say something; the pruned one becomes int8 and runs. A model that
    runs and computes something else does not pass.
    """
    if slim is not original:
        run_graph(_in_int8(slim, columns)[1], columns)
    ready, int8 = _in_int8(original, columns)
    wanted, got = (run_graph(graph, columns).astype(np.float64) for graph in (ready, int8))
    error = float(np.sqrt(np.square(got - wanted).mean() / max(float(np.square(wanted).mean()), 1e-30)))
    if error > _MOST_ERROR:
        _require_no_leap(ready, int8, columns)
    return error


def _require_no_leap(ready: Graph, int8: Graph, columns: Columns) -> None:
    """Small errors add up in a deep network whose weights are random; one op alone must not make a large one.

    A softmax may: of many classes that are all alike, each has less than an int8 step. And what is only concatenated
    shares the scale of what it is concatenated to, by whose size it is judged then.
    """
    errors = {one.tensor: one.relative_rmse for one in layer_errors(ready, int8, columns)}
    for op in ready.main:
        before = max((errors.get(tensor.name, 0.0) for tensor in op.inputs), default=0.0)
        after = max((errors.get(tensor.name, 0.0) for tensor in op.outputs), default=0.0)
        readers = {other.name for other in ready.main if set(op.outputs) & set(other.inputs)}
        if op.name != "SOFTMAX" and readers != {"CONCATENATION"} and after > before + _MOST_ERROR:
            raise QuantizeError(f"the int8 model runs, but {op} is off by {after:.2f} of its values")


def _in_int8(graph: Graph, columns: Columns) -> tuple[Graph, Graph]:
    """The graph as it is made ready, and in int8."""
    ready = condition(graph)
    return ready, quantize_int8(ready, calibrate_minmax(ready, feeds(columns)))


if __name__ == "__main__":
    main()
