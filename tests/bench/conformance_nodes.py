"""ONNX's tests of single ops, each through our front end and through plain onnx2tf: ``conformance_nodes.py NAME …``.

One process imports the libraries, which takes far longer than a test; every test then runs in a fork of it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

import conformance_onnx
from common import ready_for_onnx2tf
from conformance_records import save
from edgekd_converters.errors import ConverterError, one_line
from edgekd_converters.graph import read_graph
from edgekd_converters.load.equivalence import compare
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.observe import Columns
from edgekd_converters.quiet import import_tensorflow, quiet

SECONDS = 120
MEMORY_BYTES = 6 << 30
_KINDS = "fiub"
Verdict = dict[str, Any]


def names() -> list[str]:
    """Of ops of the standard domain on plain tensors of numbers.

    Left out are those with sequences, optionals, strings or types that numpy lacks, training, and the ``…_expanded``
    twins, which are other ops.
    """
    return [name for name in conformance_onnx.names("node") if "_expanded" not in name and _fits(name)]


def op_of(name: str) -> str:
    (first, *_) = onnx.load(conformance_onnx.model_path("node", name)).graph.node
    return str(first.op_type)


def _fits(name: str) -> bool:
    graph = onnx.load(conformance_onnx.model_path("node", name)).graph
    if any(node.domain not in ("", "ai.onnx") for node in graph.node) or not graph.input:
        return False
    for value in (*graph.input, *graph.output):
        if not value.type.HasField("tensor_type"):
            return False
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind not in _KINDS or dtype.fields:
            return False
    return True


def main() -> None:
    import_tensorflow()
    with quiet():
        import onnx2tf  # noqa: F401 - so that forks need not
    for name in sys.argv[1:]:
        start = time.perf_counter()
        record = {"ours": _in_fork(ours, name), "plain": _in_fork(plain, name)}
        save("node", name, record | {"s": round(time.perf_counter() - start, 1)})
        print(name, *("ok" if one["ok"] else one["why"] for one in record.values()), sep=" | ", flush=True)


def ours(name: str) -> Verdict:
    from edgekd_converters.load.onnx import open_source

    given, expected = conformance_onnx.published("node", name)
    path = conformance_onnx.model_path("node", name)
    try:
        source = open_source(path, LoadOptions())
    except ConverterError as error:
        return {"ok": False, "why": f"does not load: {str(error).removeprefix(f'{path}: ')}"}
    result = compare(source.graph, source.layouts, given, lambda _: expected)
    return {"ok": result.equal, "why": "" if result.equal else f"differs by {result.worst.excess:.2g} × the tolerance"}


def plain(name: str) -> Verdict:
    """As its command line does it, with its own float32 file in whichever reading agrees best."""
    import onnx2tf

    from edgekd_converters.load.onnx_ports import match
    from edgekd_converters.load.onnx_session import Port

    path = conformance_onnx.model_path("node", name)
    os.environ.update(ready_for_onnx2tf(Path()))
    try:
        onnx2tf.convert(input_onnx_file_path=str(path), output_folder_path="out", non_verbose=True)
        (made,) = Path("out").glob("*_float32.tflite")
    except (Exception, SystemExit) as error:
        return {"ok": False, "why": f"does not convert: {_one_line(error)}"}
    given, expected = (_unbatched(columns, path) for columns in conformance_onnx.published("node", name))
    takes, gives = ([Port(end, value.dtype, value.shape) for end, value in ends.items()] for ends in (given, expected))
    excess = match(read_graph(made.read_bytes()), takes, gives, [(dict(given), dict(expected))]).excess
    return {"ok": excess <= 1, "why": "" if excess <= 1 else f"differs by {excess:.2g} × the tolerance"}


def _unbatched(columns: Columns, path: Path) -> Columns:
    """In the shapes that the file declares."""
    graph = onnx.load(path).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.output)}
    return {name: value if value.ndim == ranks[name] else value[0] for name, value in columns.items()}


def _in_fork(judge: Callable[[str], Verdict], name: str) -> Verdict:
    """In an empty folder, with limits on time and memory."""
    folder = tempfile.mkdtemp(prefix="edgekd-node-")
    child = os.fork()
    if not child:
        _judge(judge, name, Path(folder))
    try:
        _, status = os.waitpid(child, 0)
        verdict = Path(folder, "verdict.json")
        if verdict.is_file():
            read: Verdict = json.loads(verdict.read_text("utf-8"))
            return read
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        return {"ok": False, "why": f"given up after {SECONDS} s" if late else f"crashes, status {status}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judge(judge: Callable[[str], Verdict], name: str, folder: Path) -> None:
    os.chdir(folder)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES,) * 2)
    signal.alarm(SECONDS)
    try:
        verdict = judge(name)
    except BaseException as error:
        verdict = {"ok": False, "why": _one_line(error)}
    (folder / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    os._exit(0)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


if __name__ == "__main__":
    main()
