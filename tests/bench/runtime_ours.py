"""Our server as a device has it: in an environment of its own, with the checkout's code."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import tomllib

from common import ROOT
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.client import framed
from edgekd_runtime.client.http1 import Request
from edgekd_runtime.wire.datatypes import pack_bytes
from runtime_models import Served
from runtime_peers import NotHere, environment, open_inference
from runtime_process import Process, foreign_environment, free_port, post


@dataclass(frozen=True)
class Running:
    """Our server, and where it listens."""

    process: Process
    port: int
    uds: Path
    ipc: Path


def python() -> Path:
    """The Python of an environment with what ``edgekd-runtime[fast]`` needs; without one a clear line ends all."""
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        return environment("edgekd", (*project["dependencies"], *project["optional-dependencies"]["fast"]))
    except NotHere as error:
        print(f"skipped: {error}")
        sys.exit(0)


def tune(bundle: Path) -> None:
    """Measure threads and workers here, as a user would once on a board; later starts take what was found."""
    command = [str(python()), "-m", "edgekd_runtime", "tune", str(bundle), "--quiet"]
    environment = foreign_environment() | {"PYTHONPATH": str(ROOT / "runtime")}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


@contextmanager
def running(
    bundle: Path, request: bytes, *options: str, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Running]:
    """Serving ``bundle`` on a TCP port, a unix socket and in frames; it has answered ``request``."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekd-bench-")))
        port, uds, ipc = free_port(), folder / "http.sock", folder / "ipc.sock"
        command = [python(), "-m", "edgekd_runtime", "serve", bundle, "--port", str(port), "--uds", uds, "--ipc", ipc]
        process = stack.enter_context(
            Process([*map(str, command), *options], {"PYTHONPATH": str(ROOT / "runtime"), **variables}, folder)
        )
        process.wait_for_answer(port, request)
        yield Running(process, port, uds, ipc)


def requests(model: Served) -> dict[str, bytes]:
    """Form → request: a text to ``:classify``; a tensor in binary, and in JSON where peers take it so."""
    name = model.engine.bundle.name
    if model.text is not None:
        return {"json": classify(model.engine.bundle, model.text)}
    in_json = open_inference(f"/v2/models/{name}/infer", model)
    return {"raw": binary_infer(model), **({"json": in_json["json"]} if "json" in in_json else {})}


def frame(request: bytes) -> bytes:
    """The same request as the framed protocol has it."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines if not line.startswith(("Host:", "Content-Length:")))
    return framed.encode(Request(method, path, headers, [body]), 1, None)


def classify(bundle: Bundle, text: str) -> bytes:
    """A text as JSON."""
    return post(f"/v1/models/{bundle.name}:classify", json.dumps({"text": text}).encode(), "application/json")


def binary_infer(model: Served) -> bytes:
    """The tensor as it is stored, or the text, by the binary tensor data extension, and outputs in binary."""
    header, tensor = binary_parts(model) if model.text is None else _text_parts(model.text)
    path = f"/v2/models/{model.engine.bundle.name}/infer"
    return post(path, header + tensor, "application/octet-stream", Inference_Header_Content_Length=str(len(header)))


def _text_parts(text: str) -> tuple[bytes, bytes]:
    data = pack_bytes([text.encode()])
    return _header("text", [1], "BYTES", len(data)), data


def binary_parts(model: Served) -> tuple[bytes, bytes]:
    """The JSON header of such a request, and the tensor's bytes."""
    row, spec = model.row, model.engine.inputs[0]
    datatype = {"int8": "INT8", "int32": "INT32", "float32": "FP32"}[row.dtype.name]
    return _header(spec.name, [*row.shape], datatype, row.nbytes), row.tobytes()


def _header(name: str, shape: list[int], datatype: str, size: int) -> bytes:
    one = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    header = {"inputs": [one], "parameters": {"binary_data_output": True}}
    return json.dumps(header, separators=(",", ":")).encode()
