"""A server in a thread of the test's own process, so that a test can look into it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from edgekd_runtime.patience import limited
from edgekd_runtime.poll import BusyPoll
from edgekd_runtime.pure import PatientH11
from edgekd_runtime.reply import Guard
from edgekd_runtime.repository import Repository
from edgekd_runtime.routes import Site
from edgekd_runtime.server import Application

LIMIT = 2000
direct = pytest.importorskip("edgekd_runtime.direct", reason="httptools has no wheels on this machine")


@contextmanager
def listening(
    site: Site, guards: Sequence[Guard] = (), repository: Repository | None = None, *, fast: bool = True
) -> Iterator[int]:
    """A port on which ``site`` is served, in a thread of this process. ``fast``: with httptools."""
    loop = asyncio.new_event_loop()
    app = Application(site, guards=guards, max_body_bytes=LIMIT)
    protocol = limited(direct.direct_protocol(site, guards, LIMIT, BusyPoll(0)) if fast else PatientH11, None)
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_level="warning")
    config.load()
    state = ServerState()
    make: Callable[[], asyncio.Protocol] = lambda: protocol(config, state, {}, loop)  # noqa: E731
    listener = loop.run_until_complete(loop.create_server(make, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    if repository is not None:
        repository.attach(site, loop)
        site.repository = repository
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listener.close()
        loop.close()
