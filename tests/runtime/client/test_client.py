"""The client against live servers, on every transport, and against servers that are not well."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.runtime import files
from tests.runtime.live import Live, live

from edgekd_runtime import api, auth, frames, repository
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.cli_common import Opening
from edgekd_runtime.client import AsyncClient, Classification, Client, ClientError, framed
from edgekd_runtime.engine import Engine
from edgekd_runtime.preprocess import Image
from edgekd_runtime.reply import Headers
from edgekd_runtime.routes import Site
from edgekd_runtime.signing import ANYBODY

X = np.array([[1, 2, -1, 0.5], [0, 0, 0, 0]], np.float32)
Y = np.array([[4, 1, 3], [1, 0, -2]], np.float32)  # of X, by the weights in conftest
TEXT = "where is my order"


@pytest.fixture(scope="module")
def eye(square_dense: bytes) -> Engine:
    """Of pictures of 2 × 2 grays."""
    preprocess = Image(height=2, width=2, color="gray", mean=(0.0,), std=(1.0,))
    return Engine(
        Bundle("eye", square_dense, "int8", {"in": "x"}, {"out": "y"}, labels=("a", "b", "c"), preprocess=preprocess)
    )


@pytest.fixture(scope="module")
def server(
    dense: Engine, add: Engine, engine: Engine, eye: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    engines = {one.bundle.name: one for one in (dense, add, engine, eye)}
    with live(engines, tmp_path_factory.mktemp("client")) as started:
        yield started


class Waiting:
    """An ``AsyncClient`` with the calls of ``Client``, so that both are held to the same tests."""

    def __init__(self, uri: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_made(uri, options))

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(self._client, name)
        return lambda *args, **options: self._runner.run(method(*args, **options))


async def _made(uri: str, options: dict[str, Any]) -> AsyncClient:
    return AsyncClient(uri, **options)


@pytest.fixture(params=["http", "unix", "ipc"])
def uri(request: pytest.FixtureRequest, server: Live) -> str:
    return server.uris[request.param]


@pytest.fixture(params=[Client, Waiting], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, uri: str) -> Iterator[Any]:
    with request.param(uri) as made:
        yield made


def test_health_and_metadata(client: Any, engine: Engine) -> None:
    assert client.live()
    assert client.ready()
    assert client.ready("dense")
    assert not client.ready("nobody")
    assert "binary_tensor_data" in client.server_metadata()["extensions"]
    described = client.metadata("dense", version="1")
    assert (described["name"], described["inputs"][0]["shape"]) == ("dense", [-1, 4])


def test_infer(client: Any) -> None:
    for _ in range(2):  # the second over the same connection
        np.testing.assert_array_equal(client.infer({"in": X}, model="dense")["out"], Y)
    np.testing.assert_array_equal(client.infer({"in": X.tolist()}, model="dense", version="1")["out"], Y)
    np.testing.assert_array_equal(client.infer({"in": X.astype(np.float16)}, model="dense")["out"], Y)
    big_endian_and_strided = np.repeat(X, 2, axis=1)[:, ::2].astype(">f4")
    np.testing.assert_array_equal(client.infer({"in": big_endian_and_strided}, model="dense")["out"], Y)
    np.testing.assert_array_equal(client.infer({"a": X, "b": X}, model="add")["c"], 2 * X)


def test_infer_from_texts(client: Any, engine: Engine) -> None:
    name = engine.bundle.name
    found = client.infer({"text": [TEXT, "你好"]}, model=name, outputs=["label", "score"])
    assert list(found) == ["label", "score"]
    assert found["label"] == [engine.classify(TEXT).label, engine.classify("你好").label]
    np.testing.assert_allclose(found["score"][0], engine.classify(TEXT).score, rtol=1e-6)
    ids = engine.preprocess(TEXT)[0]
    by_ids = client.infer({engine.inputs[0].name: ids}, model=name)[engine.outputs[0].name]
    np.testing.assert_array_equal(client.infer({"text": TEXT.encode()}, model=name)[engine.outputs[0].name], by_ids)


def test_predict(client: Any, engine: Engine) -> None:
    np.testing.assert_array_equal(client.predict(X, model="dense"), Y)
    name, logits = engine.bundle.name, engine.outputs_of(engine.preprocess(TEXT))[engine.outputs[0].name]
    np.testing.assert_array_equal(client.predict(TEXT, model=name), logits)
    np.testing.assert_array_equal(client.predict(engine.preprocess(TEXT)[0], model=name), logits)
    with pytest.raises(ClientError, match="use infer with its inputs: a, b"):
        client.predict(X, model="add")


def test_classify(client: Any, engine: Engine) -> None:
    name = engine.bundle.name
    expected = engine.classify(TEXT, 2)
    found = client.classify(TEXT, model=name, top_k=2)
    assert isinstance(found, Classification)
    assert (found.label, found.in_scope, len(found.labels)) == (expected.label, expected.in_scope, 2)
    assert found.score == pytest.approx(expected.score)
    assert dict(found.answers) == dict(expected.answers)
    assert [one.label for one in client.classify([TEXT, "你好"], model=name)] == [
        expected.label,
        engine.classify("你好").label,
    ]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_classify_files(client: Any, eye: Engine, form: str) -> None:
    picture = files.picture(Pillow.fromarray(np.full((4, 4), 200, np.uint8)), form)
    assert client.classify(picture, model="eye").label == eye.classify(picture).label
    with pytest.raises(ClientError, match="no WAV, JPEG"):
        client.classify(b"abc", model="eye")


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: client.infer({"in": X[:, :2]}, model="dense"), 400),
        (lambda client: client.infer({"no": X}, model="dense"), 400),
        (lambda client: client.infer({"in": X}, model="dense", outputs=["no"]), 400),
        (lambda client: client.infer({"in": X}, model="nobody"), 404),
        (lambda client: client.infer({"in": X}, model="a/b?c"), 404),
        (lambda client: client.metadata("dense", "9"), 404),
        (lambda client: client.classify("", model="customer-service"), 400),
        (lambda client: client.infer({"in": np.zeros((300_000, 4), np.float32)}, model="dense"), 413),
    ],
)
def test_errors_have_a_status_and_spare_the_connection(client: Any, call: Any, status: int) -> None:
    with pytest.raises(ClientError) as caught:
        call(client)
    assert caught.value.status == status
    assert str(caught.value).startswith(f"{status}: ")
    assert "\n" not in str(caught.value)
    assert client.live()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.infer({"in": X.astype(np.complex64)}, model="dense"), "complex64 cannot be sent"),
        (lambda client: client.predict(np.array(["hi"]), model="dense"), "cannot be sent; take .*a list of str"),
        (lambda client: client.infer({"in": [[1], [2, 3]]}, model="dense"), "input 'in' is no array"),
        (lambda client: client.infer({"text": "\ud800"}, model="dense"), "is no Unicode"),
        (lambda client: client.infer({"text": ["hi", 1]}, model="dense"), "texts are str and files are bytes, not int"),
        (lambda client: client.infer(X, model="dense"), "by their names"),
        (lambda client: client.infer({"in": X}, model="dense", outputs=[{}]), "outputs must be a list of names"),
        (lambda client: client.infer({"in": X}, model="dense", version=1), "must be a text, not 1"),
        (lambda client: client.load("\ud800"), "must be a text"),
        (lambda client: client.classify(b"garbage", model="dense"), "no WAV, JPEG"),
        (lambda client: client.classify(bytearray(b"hello"), model="dense"), "not bytearray"),
        (lambda client: client.classify(["hi", b"BM"], model="dense"), "not bytes, str"),
        (lambda client: client.classify("hi", model="dense", top_k=np.int64(3)), "int64 is not JSON"),
    ],
)
def test_what_cannot_be_sent(client: Any, call: Any, message: str) -> None:
    with pytest.raises(ClientError, match=message) as caught:
        call(client)
    assert caught.value.status is None
    assert "\n" not in str(caught.value)
    assert client.live()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"timeout_s": timeout_s}, "timeout_s must be") for timeout_s in (-1, 0, float("nan"), 1e9, None, "1")],
        *[({"token": token}, "the token must be") for token in ("a\r\nX: y", "a\n", "ü€", "a b", "", b"a")],
    ],
)
def test_options_that_are_none(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        kind("http://localhost", **options)


def test_large_tensors(client: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(64, 4)).astype(np.float32) for _ in "ab")
    np.testing.assert_array_equal(client.infer({"a": a, "b": b}, model="add")["c"], a + b)


def test_shared_memory_carries_what_is_large(
    server: Live, monkeypatch: pytest.MonkeyPatch, add: Engine, engine: Engine
) -> None:
    monkeypatch.setattr(framed, "SHARED_FROM_BYTES", 100)
    sent = []
    encode = framed.encode

    def spied(*args: Any) -> bytes:
        data = encode(*args)
        sent.append(len(data))
        return data

    monkeypatch.setattr(framed, "encode", spied)
    with Client(server.uris["ipc"]) as client:
        for rows in (1, 64, 2):
            x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
            np.testing.assert_array_equal(client.infer({"a": x, "b": x}, model="add")["c"], 2 * x)
        with pytest.raises(ClientError, match="400"):
            client.infer({"a": X}, model="add")
        assert client.classify(TEXT * 10, model=engine.bundle.name).label
    assert max(sent) < 600


def test_the_only_model_need_not_be_named(dense: Engine, tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1", model="dense") as client, pytest.raises(ClientError, match="cannot reach"):
        client.predict(X)
    with live({"dense": dense}, tmp_path) as server, Client(server.uris["ipc"], model="dense") as client:
        np.testing.assert_array_equal(client.predict(X), Y)
        np.testing.assert_array_equal(client.infer({"in": X})["out"], Y)


@dataclass
class Folder:
    """Of bundles, behind ``uri``; ``change`` loads and unloads without the client that is tested."""

    path: Path
    uri: str
    asked: list[str]

    def change(self, **verbs: str) -> None:
        with Client(self.uri) as other:
            for model, verb in verbs.items():
                getattr(other, verb)(model)
        self.asked.clear()


@pytest.fixture
def folder(tmp_path: Path, dense_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """``dense``, and ``twin``, the same but for its name, not loaded."""
    from tests.runtime.listen import listening  # not above: it skips where httptools has no wheel

    monkeypatch.setattr(repository, "try_bundle", lambda path, **_: Opening(ANYBODY)(path).model_sha256)
    dense_bundle.save(tmp_path / "dense.edgekd")
    models = repository.Repository(Opening(ANYBODY), tmp_path)
    site = Site(models.open_folder({}), api.ROUTES)
    replace(dense_bundle, name="twin").save(tmp_path / "twin.edgekd")
    asked: list[str] = []

    def guard(headers: Headers, path: str, client: str | None) -> None:
        asked.append(path)

    with listening(site, guards=[guard], repository=models) as port:
        yield Folder(tmp_path, f"http://127.0.0.1:{port}", asked)
    site.close()


@pytest.mark.parametrize("kind", [Client, Waiting])
def test_another_model_in_place_of_the_only_one(folder: Folder, kind: Any) -> None:
    with kind(folder.uri) as client:
        for call in (
            lambda: client.predict(X),
            lambda: client.infer({"in": X})["out"],
            lambda: client.metadata()["name"],
        ):
            folder.change(twin="load", dense="unload")
            call()
            folder.change(dense="load", twin="unload")
            call()
        folder.change(dense="unload")
        with pytest.raises(ClientError, match="none is loaded"):
            client.classify("x")


@pytest.mark.parametrize("kind", [Client, Waiting])
def test_a_model_that_is_loaded_anew_with_other_names(folder: Folder, dense_bundle: Bundle, kind: Any) -> None:
    with kind(folder.uri, model="dense") as client:
        np.testing.assert_array_equal(client.predict(X), Y)
        for i in range(2):
            replace(dense_bundle, inputs={f"in{i}": "x"}, outputs={f"out{i}": "y"}).save(folder.path / "dense.edgekd")
            folder.change(dense="load")
            np.testing.assert_array_equal(client.predict(X), Y)
        assert folder.asked == ["/v2/models/dense/infer", "/v2/models/dense", "/v2/models/dense/infer"]


@pytest.mark.parametrize("kind", [Client, Waiting])
def test_loading_and_unloading_is_known_at_once(folder: Folder, kind: Any) -> None:
    with kind(folder.uri) as client:
        client.predict(X)
        client.load("twin")
        with pytest.raises(ClientError, match="the server has 2 models"):
            client.predict(X)
        client.unload("dense")
        folder.asked.clear()
        client.predict(X)
        assert folder.asked == ["/v2/repository/index", "/v2/models/twin", "/v2/models/twin/infer"]


def test_what_is_wrong_is_not_asked_twice(folder: Folder) -> None:
    with Client(folder.uri) as client:
        with pytest.raises(ClientError, match="400"):
            client.predict(X[:, :2])
        assert len(folder.asked) == 3
        folder.asked.clear()
        with pytest.raises(ClientError, match="400"):
            client.infer({"in": X[:, :2]})
        assert len(folder.asked) == 1


def test_the_token_is_sent(dense: Engine, tmp_path: Path) -> None:
    with live({"dense": dense}, tmp_path, guards=[auth.token_guard("a" * 20)]) as server:
        with Client(server.uris["http"], token="a" * 20) as client:
            assert client.ready("dense")
        with Client(server.uris["http"]) as client, pytest.raises(ClientError) as caught:
            client.metadata("dense")
        assert caught.value.status == 401


def test_threads_share_a_client(uri: str) -> None:
    with Client(uri) as client, ThreadPoolExecutor(8) as pool:
        for k, found in enumerate(pool.map(lambda k: client.infer({"a": X * k, "b": X}, model="add")["c"], range(60))):
            np.testing.assert_array_equal(found, X * k + X)
        assert len(client._idle) <= 8


def test_tasks_share_a_client(uri: str) -> None:
    async def go() -> None:
        async with AsyncClient(uri) as client:
            found = await asyncio.gather(*(client.infer({"a": X * k, "b": X}, model="add") for k in range(20)))
            for k, one in enumerate(found):
                np.testing.assert_array_equal(one["c"], X * k + X)

    asyncio.run(go())


def test_a_server_that_comes_back_is_found_again(dense: Engine, tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path / 'ipc'}") as client:
        for _ in range(3):
            with live({"dense": dense}, tmp_path):
                assert client.ready("dense")
        with pytest.raises(ClientError, match="cannot reach"):
            client.live()


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        public = {name: member for name, member in vars(kind).items() if name[0] != "_" and callable(member)}
        return {name: list(inspect.signature(member).parameters) for name, member in public.items()}

    assert calls(Client) == calls(AsyncClient)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "localhost",
        "http://é..x",
        "ftp://x",
        "http://",
        "http://x:y",
        "http://x/v2",
        "unix://",
        "http://[::1",
        "ipc:",
    ],
)
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(ClientError, match="is no address"):
        Client(uri)


@pytest.mark.parametrize("scheme", ["unix", "ipc", "http"])
def test_nobody_there(scheme: str, tmp_path: Path) -> None:
    uri = "http://127.0.0.1:1" if scheme == "http" else f"{scheme}://{tmp_path / 'none'}"
    for kind in (Client, Waiting):
        with kind(uri) as client, pytest.raises(ClientError, match="cannot reach") as caught:
            client.live()
        assert caught.value.status is None


def strange_server(path: Path, answer: bytes) -> None:
    """Sends ``answer`` to its one client, whatever that asks, and hangs up."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()

    def run() -> None:
        for _ in range(2):  # a client may try twice
            sock, _ = listening.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(answer)

    threading.Thread(target=run, daemon=True).start()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nabcdefgh\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        b"SSH-2.0\r\n\r\n",
        b"x" * 100_000,
        b"EKD\x01" + b"\xff" * 12,
        b"EKD\x02" + bytes(12),
        frames.frame_head(200, 1, b"no colon", 0),
        frames.frame_head(200, 1, b"shared-body: x y", 0),
    ],
    ids=lambda answer: repr(answer[:40]),
)
@pytest.mark.parametrize("scheme", ["unix", "ipc"])
@pytest.mark.parametrize("kind", [Client, Waiting])
def test_servers_that_speak_otherwise(tmp_path: Path, scheme: str, kind: Any, answer: bytes) -> None:
    strange_server(tmp_path / "s", answer)
    with kind(f"{scheme}://{tmp_path / 's'}", timeout_s=5) as client, pytest.raises(ClientError):
        client.metadata("dense")


@pytest.mark.parametrize("kind", [Client, Waiting])
def test_nothing_is_asked_on_a_connection_that_the_server_ends(tmp_path: Path, kind: Any) -> None:
    asked = []

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            sock, _ = listening.accept()
            with sock:
                for head in (b"content-type: x", b"content-type: x\nconnection: close"):
                    asked.append(frames.PREFIX.unpack_from(sock.recv(65536))[3])
                    sock.sendall(frames.frame_head(200, asked[-1], head, 0))
                assert sock.recv(65536) == b""  # not that it hung up first

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        serving = threading.Thread(target=serve, args=[listening], daemon=True)
        serving.start()
        with kind(f"ipc://{tmp_path / 's'}", timeout_s=5) as client:
            assert [client.live() for _ in range(4)] == [True] * 4
        serving.join(5)
    assert asked == [1, 2, 1, 2]


@pytest.mark.parametrize("answer", [b"", b"5", b'["x"]', b'{"labels": 1, "inputs": [1], "results": [2]}'])
@pytest.mark.parametrize("call", ["server_metadata", "index", "metadata", "infer", "predict", "classify"])
def test_answers_that_mean_nothing(tmp_path: Path, answer: bytes, call: str) -> None:
    strange_server(tmp_path / "s", b"HTTP/1.0 200 OK\r\n\r\n" + answer)
    given = {"infer": [{"in": X}], "predict": [X], "classify": ["hi"]}.get(call, [])
    with Client(f"unix://{tmp_path / 's'}", timeout_s=5) as client, suppress(ClientError):  # and nothing else
        getattr(client, call)(*given)


def test_other_servers_answers(tmp_path: Path) -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\n"
        + b'{"a": '
        + b"\r\n2\r\n1}\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    until_the_end = b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}'
    for i, answer in enumerate((chunked, until_the_end, b"HTTP/1.1 100 Continue\r\n\r\n" + chunked)):
        strange_server(tmp_path / str(i), answer)
        with Client(f"unix://{tmp_path / str(i)}") as client:
            assert client.metadata("dense") == {"a": 1}


@pytest.mark.parametrize("scheme", ["unix", "ipc"])
@pytest.mark.parametrize("kind", [Client, Waiting])
def test_a_server_that_keeps_silent(tmp_path: Path, scheme: str, kind: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with kind(f"{scheme}://{tmp_path / 's'}", timeout_s=0.2) as client, pytest.raises(ClientError) as caught:
            client.live()
    assert "did not answer within 0.2 s" in str(caught.value)


@contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """A listening socket with no room for one more client; closed after a while, so that nobody waits for ever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    sock.setblocking(False)
                    sock.connect(str(path))  # stays in the queue when it is closed
        end = threading.Timer(10, listening.close)
        end.start()
        try:
            yield listening
        finally:
            end.cancel()


@pytest.mark.parametrize("scheme", ["unix", "ipc"])
@pytest.mark.parametrize("kind", [Client, Waiting])
def test_a_server_that_takes_nobody_any_more(tmp_path: Path, scheme: str, kind: Any) -> None:
    with full_queue(tmp_path / "s"), kind(f"{scheme}://{tmp_path / 's'}", timeout_s=0.2) as client:
        for _ in range(2):
            with pytest.raises(ClientError, match="did not answer within"):
                client.live()


@pytest.mark.parametrize("kind", [Client, Waiting])
def test_a_full_queue_is_waited_for(tmp_path: Path, kind: Any) -> None:
    def answer(listening: socket.socket) -> None:
        asked = b""
        while not asked:
            sock, _ = listening.accept()
            with sock:
                asked = sock.recv(65536)  # nothing from those that only fill the queue
                if asked:
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with full_queue(tmp_path / "s") as listening, kind(f"unix://{tmp_path / 's'}") as client:
        answering = threading.Timer(0.1, answer, [listening])
        answering.start()
        assert client.live()
        answering.join()


def test_needs_nothing_of_the_servers() -> None:
    """Importable where only numpy is: no interpreter, no server, no click."""
    refused = ["click", "uvicorn", "uvloop", "httptools", "ai_edge_litert", "tflite_runtime", "PIL"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({refused})); import edgekd_runtime.client; "
        "print(sorted(name for name in sys.modules if name.startswith('edgekd_runtime.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "edgekd_runtime.engine" not in done.stdout
