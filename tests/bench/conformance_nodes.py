"""ONNX's tests of single ops, each through our front end and through plain onnx2tf: ``conformance_nodes.py NAME …``.

One process imports the libraries, which takes far longer than a test; either side then runs in a fork of it, and after
a crash in another one.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
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

SECONDS = 120  # of computing; this machine may have other work
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
    with quiet():  # so that forks need not
        import onnx2tf  # noqa: F401
        import onnxsim  # noqa: F401

        import edgekd_converters.load.onnx  # noqa: F401
    names = sys.argv[1:]
    for name, *sides in zip(names, _verdicts(ours, names), _verdicts(plain, names), strict=True):
        save("node", name, dict(zip(("ours", "plain"), sides, strict=True)))
        print(name, *("ok" if one["ok"] else one["why"] for one in sides), sep=" | ", flush=True)


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

    path = Path(shutil.copy(conformance_onnx.model_path("node", name), "model.onnx"))  # it writes to what it is given
    os.environ.update(ready_for_onnx2tf(Path()))
    subprocess.check_output = _simplify  # type: ignore[assignment]
    try:
        onnx2tf.convert(input_onnx_file_path=str(path), output_folder_path="out", non_verbose=True)
        (made,) = Path("out").glob("*_float32.tflite")
    except (Exception, SystemExit) as error:
        return {"ok": False, "why": f"does not convert: {_one_line(error)}"}
    given, expected = (_unbatched(columns, path) for columns in conformance_onnx.published("node", name))
    takes, gives = ([Port(end, value.dtype, value.shape) for end, value in ends.items()] for ends in (given, expected))
    graph = read_graph(made.read_bytes())
    flex = any(op.name.startswith("Flex") for op in graph.ops)  # runs here, where TensorFlow is loaded
    excess = match(graph, takes, gives, [(dict(given), dict(expected))]).excess
    return {"ok": excess <= 1, "why": "" if excess <= 1 else f"differs by {excess:.2g} × the tolerance", "flex": flex}


def _simplify(command: list[str], **_: Any) -> bytes:
    """The program ``onnxsim`` in a fork of this process: it takes far longer to start than to run."""
    child = os.fork()
    if not child:
        signal.alarm(20 * SECONDS)  # a fork does not inherit it
        code = 1
        try:
            import onnxsim

            sys.argv = command
            onnxsim.main()
            code = 0
        finally:
            os._exit(code)
    if status := os.waitpid(child, 0)[1]:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return b""


def _unbatched(columns: Columns, path: Path) -> Columns:
    """In the shapes that the file declares."""
    graph = onnx.load(path).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.output)}
    return {name: value if value.ndim == ranks[name] else value[0] for name, value in columns.items()}


def _verdicts(judge: Callable[[str], Verdict], names: Sequence[str]) -> list[Verdict]:
    known: dict[str, Verdict] = {}
    while left := [name for name in names if name not in known]:
        known |= _in_fork(judge, left)
    return [known[name] for name in names]


def _in_fork(judge: Callable[[str], Verdict], names: Sequence[str]) -> dict[str, Verdict]:
    """The verdicts on the first of them; the last of these may be that the process dies of it."""
    with tempfile.TemporaryDirectory(prefix="edgekd-nodes-", ignore_cleanup_errors=True) as folder:
        child = os.fork()
        if not child:
            _judge_all(judge, names, Path(folder))
        _, status = os.waitpid(child, 0)
        files = {name: Path(folder, f"{name}.json") for name in names}
        known: dict[str, Verdict] = {
            name: json.loads(path.read_text("utf-8")) for name, path in files.items() if path.is_file()
        }
    if len(known) < len(names):
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)
        why = f"given up after {SECONDS} s" if late else f"crashes, status {status}"
        known[names[len(known)]] = {"ok": False, "why": why}
    return known


def _judge_all(judge: Callable[[str], Verdict], names: Sequence[str], folder: Path) -> None:
    """Each in an empty folder, with limits on time and memory; the process ends here."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES,) * 2)
    for name in names:
        place = folder / name
        place.mkdir()
        os.chdir(place)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(20 * SECONDS)
        try:
            verdict = judge(name)
        except BaseException as error:
            verdict = {"ok": False, "why": _one_line(error)}
        (folder / f"{name}.json").write_text(json.dumps(verdict), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
    os._exit(0)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


if __name__ == "__main__":
    main()
