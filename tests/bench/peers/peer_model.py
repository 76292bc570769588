"""What the peers serve: the model the way people call it, and the text preprocessing that its bundle describes.

Runs in the peers' own environments: standard library, numpy, an interpreter, and ``edgekd_runtime.preprocess`` by path.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

MODEL = Path(os.environ.get("EDGEKD_PEER_MODEL", ""))


class Model:
    """``predict`` takes the stored input tensor; the ``of_…`` take what a request holds. All give label and score."""

    def __init__(self) -> None:
        self.preprocess = None
        if description := json.loads(MODEL.with_suffix(".json").read_text(encoding="utf-8")):
            from edgekd_runtime.preprocess import load

            self.preprocess = load(description)
        self.load()

    def load(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(MODEL))
        self.interpreter.allocate_tensors()
        (given,), (made,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        self.input, self.output = given["index"], made["index"]
        self.shape, self.dtype = tuple(given["shape"]), given["dtype"]
        self.scale, self.zero_point = made["quantization"]

    def predict(self, row: np.ndarray) -> dict[str, Any]:
        self.interpreter.set_tensor(self.input, row.reshape(self.shape))
        self.interpreter.invoke()
        scores = (self.interpreter.get_tensor(self.output)[0].astype(np.float32) - self.zero_point) * self.scale
        best = int(scores.argmax())
        return {"label": best, "score": float(scores[best])}

    def of_bytes(self, body: bytes) -> dict[str, Any]:
        return self.predict(np.frombuffer(body, self.dtype))

    def of_text(self, text: str) -> dict[str, Any]:
        assert self.preprocess is not None
        return self.predict(self.preprocess(text))

    def of_json(self, content: dict[str, Any]) -> dict[str, Any]:
        """``text``, or a tensor as the numbers ``data`` or as ``b64``."""
        if "text" in content:
            return self.of_text(content["text"])
        if "b64" in content:
            return self.of_bytes(base64.b64decode(content["b64"]))
        return self.predict(np.asarray(content["data"], self.dtype))


class OnnxModel(Model):
    """The float32 network in onnxruntime, which takes the same requests."""

    def load(self) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(os.environ["EDGEKD_PEER_ONNX"], providers=["CPUExecutionProvider"])
        (given,) = self.session.get_inputs()
        self.name, self.first_channels = given.name, given.shape[1] == 3
        self.wants = np.int32 if "int32" in given.type else np.float32
        described = json.loads(os.environ["EDGEKD_PEER_INPUT"])
        self.shape, self.dtype = tuple(described["shape"]), np.dtype(described["dtype"])
        self.scale, self.zero_point = described["scale"] or 1.0, described["zero_point"]

    def predict(self, row: np.ndarray) -> dict[str, Any]:
        array = row.reshape(self.shape).astype(self.wants)
        if self.wants == np.float32:
            array = (array - self.zero_point) * np.float32(self.scale)
        if self.first_channels:
            array = array.transpose(0, 3, 1, 2)
        scores = self.session.run(None, {self.name: array})[0][0]
        best = int(scores.argmax())
        return {"label": best, "score": float(scores[best])}
