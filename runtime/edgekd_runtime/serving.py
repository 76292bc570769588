"""Sockets and signals: runs the application under uvicorn on TCP, on a unix socket, or on both."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvicorn

from edgekd_runtime import logs, notify, server
from edgekd_runtime.ipc import IpcServer
from edgekd_runtime.listening import SocketFile
from edgekd_runtime.patience import Overseer, limited
from edgekd_runtime.poll import DEFAULT_WINDOW_US, BusyPoll
from edgekd_runtime.reply import Guard, json_reply
from edgekd_runtime.repository import Repository, release
from edgekd_runtime.routes import Site
from edgekd_runtime.siblings import Siblings

_KEEP_ALIVE_S = 75
_DRAIN_S = 5
_LAST_CALL_S = 0.5
_HANDSHAKE_S = 10.0  # of TLS; asyncio would wait for a minute


def serve(
    site: Site,
    sockets: list[socket.socket],
    on_ready: Callable[[], None],
    *,
    repository: Repository | None = None,
    guards: Sequence[Guard] = (),
    tls: ssl.SSLContext | None = None,
    remove: Sequence[SocketFile] = (),
    max_body_bytes: int = server.DEFAULT_MAX_BODY_BYTES,
    max_connections: int | None = None,
    busy_poll_us: int = DEFAULT_WINDOW_US,
    ipc: socket.socket | None = None,
    siblings: Siblings | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests finish and remove the socket files in ``remove``.

    ``repository``: what SIGHUP and clients may load anew. ``tls``: on TCP; unix sockets speak in the clear.
    ``ipc``: a listening unix socket for frames. ``siblings``: this is one of several processes, which are given their
    clients by a supervisor; it alone listens to ``sockets`` and ``ipc``.
    """
    poll = BusyPoll(busy_poll_us)
    framed = (IpcServer(site, guards, max_body_bytes, poll), ipc) if ipc is not None else None
    listening = [] if siblings is not None else sockets
    config = uvicorn.Config(
        server.Application(site, guards=guards, max_body_bytes=max_body_bytes),
        http=limited(_protocol(site, guards, max_body_bytes, poll), max_connections),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
    )
    # uvicorn raises the signal again once it has drained; without a handler of ours that would kill the process
    # before the sockets are removed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    release()
    gc.freeze()  # what is loaded by now lives as long as the server; collections need not look at it
    try:
        _Server(config, site, repository, tls, framed, on_ready, siblings, sockets).run(listening)
    finally:
        site.close()
        for file in remove:
            file.remove()


def _protocol(site: Site, guards: Sequence[Guard], max_body_bytes: int, poll: BusyPoll) -> Any:
    try:
        from edgekd_runtime.direct import direct_protocol
    except ImportError:  # no httptools
        from edgekd_runtime.pure import PatientH11

        return PatientH11
    return direct_protocol(site, guards, max_body_bytes, poll)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        site: Site,
        repository: Repository | None,
        tls: ssl.SSLContext | None,
        framed: tuple[IpcServer, socket.socket] | None,
        on_ready: Callable[[], None],
        siblings: Siblings | None,
        shared: Sequence[socket.socket],
    ) -> None:
        super().__init__(config)
        self._site = site
        self._repository = repository
        self._tls = tls
        self._framed = framed
        self._on_ready = on_ready
        self._siblings = siblings
        self._shared = shared  # what the supervisor listens to, with siblings
        self._taken = 0  # clients that the supervisor has handed over
        self._connecting: set[asyncio.Task[None]] = set()
        self._overseer = Overseer()
        self._watchdog = notify.Watchdog()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        secured = [sock for sock in sockets or () if self._tls is not None and sock.family != socket.AF_UNIX]
        await super().startup(sockets=[sock for sock in sockets or () if sock not in secured])
        if not self.started:
            return
        loop = asyncio.get_running_loop()
        for sock in secured:
            self.servers.append(
                await loop.create_server(
                    partial(self._protocol, loop), sock=sock, ssl=self._tls, ssl_handshake_timeout=_HANDSHAKE_S
                )
            )
        if self._repository is not None:
            self._repository.attach(self._site, loop)
            self._site.repository = self._repository
        if self._siblings is not None:
            self._join(loop, self._siblings)
            return
        if self._repository is not None:
            self._reload_on_sighup(loop, self._repository)
        if self._framed is not None:
            self._framed[0].start(loop, self._framed[1])
        notify.notify("READY=1")
        self._on_ready()

    def _reload_on_sighup(self, loop: asyncio.AbstractEventLoop, repository: Repository) -> None:
        reload = self._site.aside(lambda body, headers: json_reply(repository.reload()), "a reload")

        def start() -> None:
            notify.reloading()
            reload.later(b"", {}, loop, lambda reply: notify.notify("READY=1"))

        loop.add_signal_handler(signal.SIGHUP, start)

    def _join(self, loop: asyncio.AbstractEventLoop, siblings: Siblings) -> None:
        """Serve the clients that the supervisor hands over, by the socket that they came to."""

        def taker(context: ssl.SSLContext | None) -> Callable[[socket.socket], None]:
            def take(client: socket.socket) -> None:
                task = loop.create_task(self._connect(loop, client, context))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

            return take

        takers = [taker(None if one.family == socket.AF_UNIX else self._tls) for one in self._shared]
        if self._framed is not None:
            takers.append(partial(self._take_framed, loop, self._framed[0]))
        self._site.siblings = siblings
        siblings.write(self._site.counts())
        siblings.start(takers, self._repository, self._on_ready)

    def _protocol(self, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
        )
        return made

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, client: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        limit_s = None if context is None else _HANDSHAKE_S
        try:
            await loop.connect_accepted_socket(
                partial(self._protocol, loop), client, ssl=context, ssl_handshake_timeout=limit_s
            )
        except OSError:  # it has left, or speaks no TLS
            client.close()
        self._taken += 1

    def _take_framed(self, loop: asyncio.AbstractEventLoop, framed: IpcServer, client: socket.socket) -> None:
        framed.take(loop, client)
        self._taken += 1

    async def on_tick(self, counter: int) -> bool:
        self._watchdog.tick()
        if self._siblings is not None:
            self._report(self._siblings, counter)
        if counter % 10 == 0:  # once a second
            self._overseer.look(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _report(self, siblings: Siblings, counter: int) -> None:
        framed = len(self._framed[0].connections) if self._framed is not None else 0
        siblings.closed(self._taken - len(self.server_state.connections) - framed)
        if counter % 10 == 0:
            siblings.write(self._site.counts())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First let clients that are asking just now hear ``connection: close``, and only then hang up."""
        notify.notify("STOPPING=1")
        self._say("stopping")
        self._site.is_draining = True
        for listener in self.servers:
            listener.close()
        framed = self._framed[0] if self._framed is not None else None
        if framed is not None:
            framed.stop()
        end = time.monotonic() + _LAST_CALL_S
        while (self.server_state.connections or (framed and framed.connections)) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await asyncio.gather(
            super().shutdown(sockets=sockets), framed.shutdown(_DRAIN_S) if framed is not None else asyncio.sleep(0)
        )
        self._say("stopped")

    def _say(self, what: str) -> None:
        if self._siblings is None:  # else the supervisor does, once
            logs.event(logging.INFO, what)
