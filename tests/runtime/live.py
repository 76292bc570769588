"""A server of tiny models in a thread, on TCP, on a unix socket and on one for frames."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from edgekd_runtime import api, listening
from edgekd_runtime.engine import Engine
from edgekd_runtime.ipc import IpcServer
from edgekd_runtime.poll import BusyPoll
from edgekd_runtime.reply import Guard
from edgekd_runtime.routes import AnyRoute, Limits, Site
from edgekd_runtime.server import Application

LIMIT = 1 << 20
TIMEOUT_S = 30


@dataclass(frozen=True)
class Live:
    """``uris``: transport → where a client finds it."""

    uris: dict[str, str]
    ipc: IpcServer
    site: Site


@contextmanager
def live(
    engines: Mapping[str, Engine],
    folder: Path,
    *,
    guards: Sequence[Guard] = (),
    routes: Sequence[AnyRoute] = api.ROUTES,
    limits: Limits | None = None,
    limit: int = LIMIT,
) -> Iterator[Live]:
    """Serve ``engines`` until the end of the block."""
    site = Site(engines, routes, limits)
    framed = IpcServer(site, guards, limit, BusyPoll(0))
    tcp = listening.listen_tcp("127.0.0.1", 0)
    uds, ipc = listening.listen_unix(folder / "http"), listening.listen_unix(folder / "ipc")
    application = Application(site, guards=guards, max_body_bytes=limit)
    config = uvicorn.Config(application, log_level="warning", lifespan="off", ws="none")
    ready = threading.Event()
    server = uvicorn.Server(config)

    async def run() -> None:
        framed.start(asyncio.get_running_loop(), ipc)
        ready.set()
        await server.serve(sockets=[tcp, uds])
        await framed.shutdown(5)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(TIMEOUT_S)
    port = tcp.getsockname()[1]
    uris = {"http": f"http://127.0.0.1:{port}", "unix": f"unix://{folder / 'http'}", "ipc": f"ipc://{folder / 'ipc'}"}
    try:
        yield Live(uris, framed, site)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_S)
        site.close()
        for sock in (tcp, uds, ipc):
            sock.close()
        assert not thread.is_alive()


def connected(path: str) -> socket.socket:
    """A client of the framed protocol that speaks for itself."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    sock.settimeout(TIMEOUT_S)
    return sock
