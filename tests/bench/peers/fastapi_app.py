"""uvicorn + FastAPI: ``uvicorn fastapi_app:app``; onnxruntime is behind it where ``EDGEKD_PEER_ONNX`` is set."""

import os
from typing import Any

from fastapi import FastAPI, Request
from peer_model import Model, OnnxModel

app = FastAPI()
model = OnnxModel() if "EDGEKD_PEER_ONNX" in os.environ else Model()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type") == "application/json":
        return model.of_json(await request.json())
    return model.of_bytes(await request.body())
