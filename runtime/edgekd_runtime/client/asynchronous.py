"""The client for ``asyncio``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy.typing as npt

from edgekd_runtime.client import address, calls, framed, http1
from edgekd_runtime.client.address import Address
from edgekd_runtime.client.calls import Call, Classification, Outputs, Value
from edgekd_runtime.client.http1 import Reading, Request, Response
from edgekd_runtime.errors import ClientError
from edgekd_runtime.frames import MAX_ID

_RECEIVE_BYTES = 1 << 16
_Result = TypeVar("_Result")


class AsyncClient:
    """``Client`` with calls to await, any number at the same time: each has a connection to itself, which is kept."""

    def __init__(
        self,
        uri: str,
        *,
        model: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """As ``Client``; ``timeout_s`` is how long a call may take."""
        self._address = address.parse(uri)
        self._calls = calls.Calls(model, token)
        self._timeout_s = calls.checked_timeout(timeout_s)
        self._tls = tls
        self._idle: deque[_Connection] = deque()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        while self._idle:
            await self._idle.pop().close()

    async def live(self) -> bool:
        """As ``Client.live``."""
        return await self._run(self._calls.is_ok("/v2/health/live"))

    async def ready(self, model: str | None = None) -> bool:
        """As ``Client.ready``."""
        return await self._run(self._calls.ready(model))

    async def server_metadata(self) -> dict[str, Any]:
        """As ``Client.server_metadata``."""
        return await self._run(self._calls.server_metadata())

    async def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """As ``Client.metadata``."""
        return await self._run(self._calls.metadata(model, version))

    async def index(self) -> list[dict[str, Any]]:
        """As ``Client.index``."""
        return await self._run(self._calls.index())

    async def load(self, model: str) -> None:
        """As ``Client.load``."""
        await self._run(self._calls.repository(model, "load"))

    async def unload(self, model: str) -> None:
        """As ``Client.unload``."""
        await self._run(self._calls.repository(model, "unload"))

    async def infer(
        self,
        inputs: Mapping[str, Value],
        *,
        model: str | None = None,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Outputs:
        """As ``Client.infer``."""
        return await self._run(self._calls.infer(inputs, model, version, outputs))

    async def predict(self, value: Value, *, model: str | None = None) -> npt.NDArray[Any]:
        """As ``Client.predict``."""
        return await self._run(self._calls.predict(value, model))

    @overload
    async def classify(self, raw: str | bytes, *, model: str | None = None, top_k: int = 3) -> Classification: ...
    @overload
    async def classify(
        self, raw: list[str] | list[bytes], *, model: str | None = None, top_k: int = 3
    ) -> list[Classification]: ...
    async def classify(
        self, raw: str | bytes | list[str] | list[bytes], *, model: str | None = None, top_k: int = 3
    ) -> Classification | list[Classification]:
        """As ``Client.classify``."""
        return await self._run(self._calls.classify(raw, model, top_k))

    async def _run(self, call: Call[_Result]) -> _Result:
        try:
            request = next(call)
            while True:
                request = call.send(await self._ask(request))
        except StopIteration as done:
            result: _Result = done.value
            return result

    async def _ask(self, request: Request) -> Response:
        try:
            return await asyncio.wait_for(self._answered(request), self._timeout_s)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise ClientError(f"{self._address} did not answer within {self._timeout_s:g} s") from error
        except ConnectionResetError as error:
            raise ClientError(f"{self._address} hung up before it answered") from error
        except OSError as error:
            raise ClientError(f"cannot reach {self._address}: {error.strerror or error}") from error

    async def _answered(self, request: Request) -> Response:
        if self._idle:
            with contextlib.suppress(ConnectionResetError):  # a server hangs up on a connection that was idle for long
                return await self._exchange(self._idle.pop(), request)
        return await self._exchange(await _connected(self._address, self._tls), request)

    async def _exchange(self, connection: _Connection, request: Request) -> Response:
        try:
            response = await connection.ask(request)
        except BaseException:
            connection.abort()
            raise
        if response.is_last:
            await connection.close()
        else:
            self._idle.append(connection)
        return response


async def _connected(where: Address, tls: ssl.SSLContext | None) -> _Connection:
    if where.path:
        streams = await _unix_streams(where.path)
    else:
        context = (tls or ssl.create_default_context()) if where.scheme == "https" else None
        streams = await asyncio.open_connection(where.host, where.port, ssl=context)
    return _Connection(*streams, where)


async def _unix_streams(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while not address.is_connected(sock, path):  # asyncio takes a full queue for a connection
            await asyncio.sleep(address.RETRY_S)
        return await asyncio.open_unix_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: Address) -> None:
        self._reader = reader
        self._writer = writer
        self._where = where
        self._last_id = 0

    async def ask(self, request: Request) -> Response:
        """Raises ``OSError``."""
        reading: Reading
        if self._where.scheme == "ipc":
            self._last_id = self._last_id % MAX_ID + 1
            data, reading = framed.encode(request, self._last_id, None), framed.read(self._last_id, None)
        else:
            data, reading = http1.encode(request, self._where.authority), http1.read()
        next(reading)
        # Not drained: a server that refuses a body unread hangs up while it is being sent, and its answer says why.
        self._writer.write(data)
        try:
            while True:
                reading.send(await self._reader.read(_RECEIVE_BYTES))
        except StopIteration as done:
            response: Response = done.value
            return response

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
