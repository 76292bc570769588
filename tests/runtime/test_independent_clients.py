"""A real server, asked by NVIDIA's ``tritonclient`` as it comes, and by our own client on every transport."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.device.test_serve import Server, complaints
from tests.runtime.conftest import TinyModel

from edgekd_runtime.bundle import Bundle
from edgekd_runtime.client import Client, ClientError
from edgekd_runtime.engine import Engine

X = np.array([[1, 2, -1, 0.5], [0, 0, 0, 0]], np.float32)
Y = np.array([[4, 1, 3], [1, 0, -2]], np.float32)  # of X, by the weights in conftest
TEXT = "where is my order"


@pytest.fixture(scope="module")
def server(int8_dense: bytes, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    models = folder / "models"
    models.mkdir()
    Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}).save(models / "dense.edgekd")
    shutil.copy(bundle_path, models / "customer-service.edgekd")
    started = Server(
        folder / "log", "--model-dir", models, "--port", "0", "--uds", folder / "http", "--ipc", folder / "ipc"
    )
    yield started
    assert started.stop() == 0
    assert complaints((folder / "log").read_text()) == []


@pytest.fixture(scope="module")
def folder(server: Server) -> Path:
    return server._log.parent


@pytest.fixture
def large() -> Bundle:
    """y = max(x, 0) of an image of 224 × 224."""
    model = TinyModel()
    x, y = (model.tensor(name, (1, 224, 224, 3), schema.TensorType.FLOAT32) for name in ("x", "y"))
    built = model.build(schema.BuiltinOperator.RELU, 1, schema.BuiltinOptions.NONE, None, [x], y, 1)
    return Bundle("large", built, "float32", {"x": "x"}, {"y": "y"})


# --- tritonclient ---

http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed (extra 'dev')")


@pytest.fixture
def triton(server: Server) -> Iterator[Any]:
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool) -> Any:
    made = http.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_triton_reads_what_the_server_says(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("dense")
    assert triton.is_model_ready("dense", "1")
    assert not triton.is_model_ready("nobody")
    assert {"binary_tensor_data", "classification", "model_repository"} <= set(
        triton.get_server_metadata()["extensions"]
    )
    assert triton.get_model_metadata("dense")["inputs"][0]["shape"] == [-1, 4]
    config = triton.get_model_config("dense")
    assert config["input"] == [{"name": "in", "data_type": "TYPE_FP32", "dims": [4]}]
    assert triton.get_inference_statistics("dense")["model_stats"][0]["name"] == "dense"
    assert [one["name"] for one in triton.get_inference_statistics()["model_stats"]]
    assert {(entry["name"], entry["state"]) for entry in triton.get_model_repository_index()} == {
        ("dense", "READY"),
        ("customer-service", "READY"),
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_triton_infers(triton: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else [http.InferRequestedOutput("out", binary_data=binary_out)]
    found = triton.infer(
        "dense", [tensor("in", X, "FP32", binary=binary_in)], outputs=outputs, request_id="42", timeout=10_000_000
    )
    np.testing.assert_array_equal(found.as_numpy("out"), Y)
    assert found.get_response()["id"] == "42"
    assert found.get_response()["model_version"] == "1"


def test_triton_infers_half_precision(triton: Any) -> None:
    found = triton.infer("dense", [tensor("in", X.astype(np.float16), "FP16", binary=True)], model_version="1")
    np.testing.assert_array_equal(found.as_numpy("out"), Y)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_sends_texts(triton: Any, engine: Engine, binary: bool) -> None:
    texts = np.array([TEXT.encode(), "你好".encode()], np.object_)
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("label", "score")]
    found = triton.infer("customer-service", [tensor("text", texts, "BYTES", binary=binary)], outputs=outputs)
    labels = [one.decode() if isinstance(one, bytes) else one for one in found.as_numpy("label").tolist()]
    assert labels == [engine.classify(TEXT).label, engine.classify("你好").label]
    np.testing.assert_allclose(found.as_numpy("score")[0], engine.classify(TEXT).score, rtol=1e-6)


def test_triton_asks_for_classes(triton: Any, engine: Engine) -> None:
    name = engine.outputs[0].name
    texts = np.array([TEXT.encode()], np.object_)
    outputs = [http.InferRequestedOutput(name, class_count=2)]
    found = triton.infer("customer-service", [tensor("text", texts, "BYTES", binary=True)], outputs=outputs).as_numpy(
        name
    )
    assert [one.decode().split(":")[2] for one in found.ravel()] == [label for label, _ in engine.classify(TEXT, 2).top]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_triton_compresses(triton: Any, coding: str) -> None:
    found = triton.infer(
        "dense",
        [tensor("in", X, "FP32", binary=True)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(found.as_numpy("out"), Y)


def test_triton_asks_without_waiting(triton: Any) -> None:
    asked = [triton.async_infer("dense", [tensor("in", X * k, "FP32", binary=True)]) for k in (1, 0, 1)]
    for k, one in zip((1, 0, 1), asked, strict=True):
        np.testing.assert_array_equal(one.get_result().as_numpy("out"), Y if k else Y[[1, 1]])


def test_triton_hears_of_errors(triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match=r"must have shape \[-1, 4\]") as caught:
        triton.infer("dense", [tensor("in", X[:, :3].copy(), "FP32", binary=True)])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        triton.get_model_metadata("nobody")


def test_triton_loads_and_unloads(triton: Any) -> None:
    triton.unload_model("dense")
    assert not triton.is_model_ready("dense")
    assert {entry["name"]: entry["state"] for entry in triton.get_model_repository_index()}["dense"] == "UNAVAILABLE"
    triton.load_model("dense")
    assert triton.is_model_ready("dense")
    np.testing.assert_array_equal(triton.infer("dense", [tensor("in", X, "FP32", binary=True)]).as_numpy("out"), Y)


# --- our own, on the event loop that a device has ---


@pytest.mark.parametrize("transport", ["http", "unix", "ipc"])
def test_our_client(server: Server, folder: Path, engine: Engine, transport: str) -> None:
    uri = {"http": f"http://127.0.0.1:{server.port}", "unix": f"unix://{folder / 'http'}", "ipc": f"ipc://{folder}/ipc"}
    with Client(uri[transport]) as client:
        for _ in range(20):
            np.testing.assert_array_equal(client.infer({"in": X}, model="dense")["out"], Y)
        big = np.zeros((64, 4), np.float32)
        assert client.infer({"in": big}, model="dense")["out"].shape == (64, 3)
        assert client.classify(TEXT, model="customer-service").label == engine.classify(TEXT).label
        assert {entry["name"] for entry in client.index()} == {"dense", "customer-service"}
        with pytest.raises(ClientError, match="2 models; say which: customer-service, dense"):
            client.predict(X)
        client.unload("dense")
        assert not client.ready("dense")
        assert client.classify(TEXT).label == engine.classify(TEXT).label  # now the only one
        client.load("dense")
        np.testing.assert_array_equal(client.predict(X, model="dense"), Y)


def test_large_tensors_need_no_option(large: Bundle, tmp_path: Path) -> None:
    """224 × 224 × 3 in JSON are 3 MB."""
    large.save(tmp_path / "large.edgekd")
    server = Server(tmp_path / "log", tmp_path / "large.edgekd", "--port", "0")
    triton = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    x = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    for binary in (True, False):
        found = triton.infer("large", [tensor("x", x, "FP32", binary=binary)])
        np.testing.assert_array_equal(found.as_numpy("y"), np.maximum(x, 0))
    triton.close()
    assert server.stop() == 0
