"""Our server as a device has it: in an environment of its own, with the checkout's code."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from common import ROOT
from edgekd_runtime.bundle import Bundle
from runtime_models import Served
from runtime_peers import environment, open_inference
from runtime_process import Process, free_port, post


@dataclass(frozen=True)
class Running:
    """Our server, and where it listens."""

    process: Process
    port: int
    uds: Path


def python() -> Path:
    """The Python of an environment with what the runtime needs. Raises ``NotHere``."""
    declared = (ROOT / "runtime" / "pyproject.toml").read_bytes()
    stamp = hashlib.sha256(declared).hexdigest()[:12]
    return environment(f"edgekd-{stamp}", (str(ROOT / "runtime"),))


@contextmanager
def running(
    bundle: Path, request: bytes, *options: str, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Running]:
    """Serving ``bundle`` on a TCP port and on a unix socket; it has answered ``request``."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekd-bench-")))
        port, uds = free_port(), folder / "http.sock"
        command = [python(), "-m", "edgekd_runtime", "serve", bundle, "--port", str(port), "--uds", uds, *options]
        process = stack.enter_context(
            Process(list(map(str, command)), {"PYTHONPATH": str(ROOT / "runtime"), **variables}, folder)
        )
        process.wait_for_answer(port, request)
        yield Running(process, port, uds)


def requests(model: Served) -> dict[str, bytes]:
    """Form → request: a text to ``:classify``; a tensor in binary, and in JSON where peers take it so."""
    name = model.engine.bundle.name
    if model.text is not None:
        return {"json": classify(model.engine.bundle, model.text)}
    in_json = open_inference(f"/v2/models/{name}/infer", model)
    return {"raw": binary_infer(model), **({"json": in_json["json"]} if "json" in in_json else {})}


def classify(bundle: Bundle, text: str) -> bytes:
    """A text as JSON."""
    return post(f"/v1/models/{bundle.name}:classify", json.dumps({"text": text}).encode(), "application/json")


def binary_infer(model: Served) -> bytes:
    """The tensor as it is stored, by the binary tensor data extension, and outputs in binary."""
    header, tensor = binary_parts(model)
    path = f"/v2/models/{model.engine.bundle.name}/infer"
    return post(path, header + tensor, "application/octet-stream", Inference_Header_Content_Length=str(len(header)))


def binary_parts(model: Served) -> tuple[bytes, bytes]:
    """The JSON header of such a request, and the tensor's bytes."""
    row, spec = model.row, model.engine.inputs[0]
    datatype = {"int8": "INT8", "int32": "INT32", "float32": "FP32"}[row.dtype.name]
    size = {"binary_data_size": row.nbytes}
    one = {"name": spec.name, "shape": list(row.shape), "datatype": datatype, "parameters": size}
    header = {"inputs": [one], "parameters": {"binary_data_output": True}}
    return json.dumps(header, separators=(",", ":")).encode(), row.tobytes()
