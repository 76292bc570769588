"""Servers that people put such models behind, each from PyPI in an environment of its own, which is kept."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT
from edgekd.cache import cache_root
from runtime_models import Served
from runtime_process import Process, foreign_environment, free_port, post

HERE = Path(__file__).parent / "peers"
_INTERPRETER = ("ai-edge-litert==2.1.0", "numpy==1.26.4")


class NotHere(Exception):
    """A peer cannot be had; says why in one line."""


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of the environment with these packages, made with pip if it is not there. Raises ``NotHere``."""
    stamp = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:12]
    folder = cache_root() / "peers" / f"{name}-{stamp}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.is_file():
        print(f"installing {name}: {' '.join(requirements)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        done = subprocess.run(command, env=foreign_environment(), stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise NotHere(f"{name} cannot be installed: {lines[-1]}")
        ready.touch()
    return python


@dataclass(frozen=True)
class Peer:
    """``command``: (its Python, port) → what starts it. ``requests``: form → one request, of the forms it takes."""

    name: str
    requirements: tuple[str, ...]
    command: Callable[[Path, int], list[str]]
    requests: Callable[[Served], dict[str, bytes]]
    onnx: bool = False

    @contextmanager
    def running(self, model: Served) -> Iterator[tuple[Process, int]]:
        """Answers already; (process, port). Raises ``NotHere``."""
        python, port = environment(self.name, self.requirements), free_port()
        with Process(self.command(python, port), self._variables(model, port), HERE) as process:
            process.wait_for_answer(port, next(iter(self.requests(model).values())))
            yield process, port

    def _variables(self, model: Served, port: int) -> dict[str, str]:
        spec = model.engine.backend.inputs[0]
        described = {"shape": spec.shape, "dtype": spec.dtype.name, "scale": spec.scale, "zero_point": spec.zero_point}
        ports = {"HTTP": port, "GRPC": free_port(), "METRICS": free_port()}
        return {
            "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT / 'runtime'}",
            "EDGEKD_PEER_MODEL": str(model.tflite),
            "EDGEKD_PEER_INPUT": json.dumps(described),
            **({"EDGEKD_PEER_ONNX": str(model.onnx)} if self.onnx else {}),
            "MLSERVER_HOST": "127.0.0.1",
            **{f"MLSERVER_{kind}_PORT": str(number) for kind, number in ports.items()},
        }


def plain(model: Served) -> dict[str, bytes]:
    """For a handler of one's own at ``/predict``: the tensor's bytes, or JSON."""
    if model.text is not None:
        return {"json": _json_post("/predict", {"text": model.text})}
    forms = {"raw": post("/predict", model.row.tobytes(), "application/octet-stream")}
    return forms | ({"json": _json_post("/predict", {"data": model.row.ravel().tolist()})} if _is_small(model) else {})


def json_only(model: Served) -> dict[str, bytes]:
    """For LitServe: JSON, larger tensors in base64."""
    if model.text is not None or _is_small(model):
        return {"json": plain(model)["json"]}
    return {"raw": _json_post("/predict", {"b64": base64.b64encode(model.row.tobytes()).decode()})}


def open_inference(path: str, model: Served) -> dict[str, bytes]:
    """The Open Inference Protocol in JSON, larger tensors in base64."""
    row = model.row
    if model.text is not None:
        one = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [model.text]}
        return {"json": _json_post(path, {"inputs": [one]})}
    name = model.engine.backend.inputs[0].name
    if _is_small(model):
        numbers = {"name": name, "shape": list(row.shape), "datatype": "INT8", "data": row.ravel().tolist()}
        return {"json": _json_post(path, {"inputs": [numbers]})}
    coded = base64.b64encode(row.tobytes()).decode()
    as_bytes = {"name": name, "shape": [1], "datatype": "BYTES", "data": [coded]}
    return {"raw": _json_post(path, {"inputs": [{**as_bytes, "parameters": {"content_type": "base64"}}]})}


def _is_small(model: Served) -> bool:
    return bool(np.prod(model.row.shape) <= 10_000)  # of 150,528 numbers in JSON only the parser would be measured


def _json_post(path: str, content: dict[str, Any]) -> bytes:
    return post(path, json.dumps(content).encode(), "application/json")


def _uvicorn(python: Path, port: int) -> list[str]:
    return [str(python), "-m", "uvicorn", "fastapi_app:app", "--port", str(port), "--no-access-log"]


PEERS = (
    Peer(
        "litserve",
        ("litserve==0.2.19", *_INTERPRETER),
        lambda python, port: [str(python), "litserve_app.py", str(port)],
        json_only,
    ),
    Peer(
        "mlserver",
        ("mlserver==1.7.1", "uvloop==0.21.0", *_INTERPRETER),  # its workers do not start with newer uvloops
        lambda python, port: [str(python.with_name("mlserver")), "start", str(HERE)],
        lambda model: open_inference("/v2/models/model/infer", model),
    ),
    Peer(
        "flask",
        ("flask==3.1.3", "gunicorn==27.0.1", *_INTERPRETER),
        lambda python, port: [str(python), "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "flask_app:app"],
        plain,
    ),
    Peer("fastapi", ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", *_INTERPRETER), _uvicorn, plain),
    Peer(
        "onnxruntime",
        ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "onnxruntime==1.32.0"),
        _uvicorn,
        plain,
        onnx=True,
    ),
)
