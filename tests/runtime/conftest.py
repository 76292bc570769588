"""The real bundle of tests/device, and tiny models written by hand whose answers can be computed on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.device.conftest import bundle, bundle_path, engine  # noqa: F401  # fixtures

from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine


class TinyModel:
    """Builds a one-op ``.tflite`` tensor by tensor."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers = [schema.BufferT()]  # 0 is the empty one

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: int,
        scale: float = 0,
        zero_point: int = 0,
        data: Any = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), dtype, 0
        if scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def build(
        self, code: int, version: int, options_type: int, options: Any, inputs: Sequence[int], output: int, fed: int
    ) -> bytes:
        """``fed``: how many of ``inputs``, from the first, the caller feeds; the others are constants."""
        op_code = schema.OperatorCodeT()
        op_code.builtinCode = op_code.deprecatedBuiltinCode = code
        op_code.version = version
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = 0, list(inputs), [output]
        op.builtinOptionsType, op.builtinOptions = options_type, options
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, [op]
        graph.inputs, graph.outputs = list(inputs[:fed]), [output]
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [op_code], [graph], self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


WEIGHTS = np.array([[4, 0, -4, 8], [1, 2, 3, 4], [-8, 8, -8, 8]], np.int8)  # × 0.25
BIAS = np.array([8, 0, -16], np.int32)  # × 0.125


def _dense(shape: tuple[int, ...]) -> bytes:
    tiny, kind = TinyModel(), schema.TensorType
    inputs = [
        tiny.tensor("x", shape, kind.INT8, 0.5, 3),
        tiny.tensor("w", WEIGHTS.shape, kind.INT8, 0.25, 0, WEIGHTS),
        tiny.tensor("b", BIAS.shape, kind.INT32, 0.125, 0, BIAS),
    ]
    output = tiny.tensor("y", (1, 3), kind.INT8, 0.5, -10)
    options = schema.FullyConnectedOptionsT()
    return tiny.build(
        schema.BuiltinOperator.FULLY_CONNECTED,
        4,
        schema.BuiltinOptions.FullyConnectedOptions,
        options,
        inputs,
        output,
        1,
    )


@pytest.fixture(scope="session")
def int8_dense() -> bytes:
    """``x`` (1, 4) int8, 0.5·(q−3) → ``y`` (1, 3) int8, 0.5·(q+10): W·x + b with W = WEIGHTS/4, b = BIAS/8."""
    return _dense((1, 4))


@pytest.fixture(scope="session")
def square_dense() -> bytes:
    """The same of a picture, ``x`` (1, 2, 2, 1)."""
    return _dense((1, 2, 2, 1))


@pytest.fixture(scope="session")
def float_add() -> Callable[[int], bytes]:
    """``a`` + ``b`` → ``c``, all (batch, 4) float32."""

    def build(batch: int) -> bytes:
        tiny, kind = TinyModel(), schema.TensorType
        a, b, c = (tiny.tensor(name, (batch, 4), kind.FLOAT32) for name in "abc")
        return tiny.build(
            schema.BuiltinOperator.ADD, 1, schema.BuiltinOptions.AddOptions, schema.AddOptionsT(), [a, b], c, 2
        )

    return build


@pytest.fixture(scope="session")
def float_relu() -> bytes:
    """y = max(x, 0), (1, 2, 3, 4) float32."""
    model = TinyModel()
    x, y = (model.tensor(name, (1, 2, 3, 4), schema.TensorType.FLOAT32) for name in ("x", "y"))
    return model.build(schema.BuiltinOperator.RELU, 1, schema.BuiltinOptions.NONE, None, [x], y, 1)


@pytest.fixture(scope="session")
def dense_bundle(int8_dense: bytes) -> Bundle:
    return Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"})


@pytest.fixture(scope="session")
def dense(dense_bundle: Bundle) -> Engine:
    return Engine(dense_bundle)


@pytest.fixture(scope="session")
def add(float_add: Callable[[int], bytes]) -> Engine:
    return Engine(Bundle("add", float_add(1), "float32", {"a": "a", "b": "b"}, {"c": "c"}))
