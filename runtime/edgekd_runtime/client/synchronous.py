"""The client for ordinary code and threads."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy.typing as npt

from edgekd_runtime import shared
from edgekd_runtime.client import address, calls, framed, http1
from edgekd_runtime.client.address import Address
from edgekd_runtime.client.calls import Call, Classification, Outputs, Value
from edgekd_runtime.client.http1 import Reading, Request, Response
from edgekd_runtime.errors import ClientError
from edgekd_runtime.frames import MAX_ID

_RECEIVE_BYTES = 1 << 16  # larger ones are mapped anew for each call
_Result = TypeVar("_Result")


class Client:
    """A server's models. May be used by several threads: each call has a connection to itself, which is kept."""

    def __init__(
        self,
        uri: str,
        *,
        model: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect when the first call is made.

        Args:
            uri: ``http://HOST:PORT``, ``https://HOST:PORT``, ``unix:///PATH`` (HTTP) or ``ipc:///PATH`` (frames).
            model: for calls that name none. [default: the only one that the server has]
            token: what a server on another machine asks for.
            timeout_s: how long the server may keep silent.
            tls: for ``https://``. [default: certificates that this machine trusts]
        """
        self._address = address.parse(uri)
        self._calls = calls.Calls(model, token)
        self._timeout_s = calls.checked_timeout(timeout_s)
        self._tls = tls
        self._idle: deque[_Connection] = deque()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        while self._idle:
            self._idle.pop().close()

    def live(self) -> bool:
        """Whether the server runs. Raises ``ClientError``, as all calls do, when it cannot be reached."""
        return self._run(self._calls.is_ok("/v2/health/live"))

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or ``model``, takes requests."""
        return self._run(self._calls.ready(model))

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and protocol extensions."""
        return self._run(self._calls.server_metadata())

    def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """The model's inputs, outputs, labels and versions."""
        return self._run(self._calls.metadata(model, version))

    def index(self) -> list[dict[str, Any]]:
        """The models that the server knows, with their states."""
        return self._run(self._calls.index())

    def load(self, model: str) -> None:
        """Load ``model``, or load it anew."""
        self._run(self._calls.repository(model, "load"))

    def unload(self, model: str) -> None:
        """Serve ``model`` no longer."""
        self._run(self._calls.repository(model, "unload"))

    def infer(
        self,
        inputs: Mapping[str, Value],
        *,
        model: str | None = None,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Outputs:
        """Arrays with a batch axis, or texts and files, by the names of inputs → arrays by the names of ``outputs``."""
        return self._run(self._calls.infer(inputs, model, version, outputs))

    def predict(self, value: Value, *, model: str | None = None) -> npt.NDArray[Any]:
        """The one input, an array with a batch axis or texts or files → the first output."""
        return self._run(self._calls.predict(value, model))

    @overload
    def classify(self, raw: str | bytes, *, model: str | None = None, top_k: int = 3) -> Classification: ...
    @overload
    def classify(
        self, raw: list[str] | list[bytes], *, model: str | None = None, top_k: int = 3
    ) -> list[Classification]: ...
    def classify(
        self, raw: str | bytes | list[str] | list[bytes], *, model: str | None = None, top_k: int = 3
    ) -> Classification | list[Classification]:
        """A text, or the bytes of a picture or sound, or several of these → its labels."""
        return self._run(self._calls.classify(raw, model, top_k))

    def _run(self, call: Call[_Result]) -> _Result:
        try:
            request = next(call)
            while True:
                request = call.send(self._ask(request))
        except StopIteration as done:
            result: _Result = done.value
            return result

    def _ask(self, request: Request) -> Response:
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._exchange(self._connect(), request)
        try:
            return self._exchange(connection, request)
        except _HungUpError:
            # A server hangs up on a connection that was idle for long; nobody has answered this request yet.
            return self._exchange(self._connect(), request)

    def _exchange(self, connection: _Connection, request: Request) -> Response:
        try:
            response = connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if response.is_last:
            connection.close()
        else:
            self._idle.append(connection)
        return response

    def _connect(self) -> _Connection:
        where = self._address
        try:
            if where.path:
                sock = _connected(where.path, self._timeout_s)
            else:
                sock = socket.create_connection((where.host, where.port), self._timeout_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if where.scheme == "https":
                    tls = self._tls or ssl.create_default_context()
                    sock = tls.wrap_socket(sock, server_hostname=where.host)
        except TimeoutError as error:
            raise ClientError(f"{where} did not answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise ClientError(f"cannot reach {where}: {error.strerror or error}") from error
        return _Connection(sock, where, self._timeout_s)


def _connected(path: str, timeout_s: float) -> socket.socket:
    give_up = time.monotonic() + timeout_s
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while not address.is_connected(sock, path):
            if time.monotonic() > give_up:
                raise TimeoutError
            time.sleep(address.RETRY_S)
        sock.settimeout(timeout_s)
    except BaseException:
        sock.close()
        raise
    return sock


class _HungUpError(ClientError):
    """The server closed the connection before it answered anything."""


class _Connection:
    def __init__(self, sock: socket.socket, where: Address, timeout_s: float) -> None:
        self._sock = sock
        self._where = where
        self._timeout_s = timeout_s
        self._last_id = 0
        self._region: framed.Region | None = None

    def ask(self, request: Request) -> Response:
        """Raises ``ClientError``."""
        try:
            data, reading, fd = self._encoded(request)
            # A server that refuses a body unread hangs up while it is still being sent; its answer says why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send(data, fd)
            return self._read(reading)
        except TimeoutError as error:
            raise ClientError(f"{self._where} did not answer within {self._timeout_s:g} s") from error
        except ConnectionResetError as error:
            raise _HungUpError(f"{self._where} hung up before it answered") from error
        except OSError as error:
            raise ClientError(f"{self._where}: {error.strerror or error}") from error

    def _encoded(self, request: Request) -> tuple[bytes, Reading, int | None]:
        """The bytes to send, what reads the answer, and the descriptor to send along."""
        if self._where.scheme != "ipc":
            return http1.encode(request, self._where.authority), http1.read(), None
        self._last_id = self._last_id % MAX_ID + 1
        region, fd = None, None
        if sum(len(part) for part in request.body) >= framed.SHARED_FROM_BYTES and hasattr(os, "memfd_create"):
            if self._region is None:
                self._region = framed.Region()
                fd = self._region.fd
            region = self._region
        return framed.encode(request, self._last_id, region), framed.read(self._last_id, region), fd

    def _send(self, data: bytes, fd: int | None) -> None:
        sent = shared.send_descriptor(self._sock, data, fd) if fd is not None else 0
        self._sock.sendall(data[sent:] if sent else data)

    def _read(self, reading: Reading) -> Response:
        next(reading)
        try:
            while True:
                reading.send(self._sock.recv(_RECEIVE_BYTES))
        except StopIteration as done:
            response: Response = done.value
            return response

    def close(self) -> None:
        """Hang up."""
        self._sock.close()
        if self._region is not None:
            self._region.close()
            self._region = None
