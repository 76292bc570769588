"""What a connection holds is let go when it ends."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from edgekd_runtime.patience import REQUEST_S, Overseer, limited
from edgekd_runtime.pure import PatientH11


@pytest.mark.parametrize("base", [HttpToolsProtocol, PatientH11])
@pytest.mark.parametrize("error", [None, BrokenPipeError()])
def test_no_timer_outlives_its_connection(base: Any, error: Exception | None) -> None:
    async def live_and_die() -> None:
        config = uvicorn.Config(app=Mock(), log_config=None, lifespan="off")
        config.load()
        protocol = limited(base, None)(config=config, server_state=ServerState(), app_state={})
        transport = Mock()
        transport.get_extra_info.return_value = None
        protocol.connection_made(transport)
        timer = protocol.timeout_keep_alive_task
        assert not timer.cancelled()
        protocol.connection_lost(error)
        assert timer.cancelled()
        assert protocol not in protocol.connections

    asyncio.run(live_and_die())


def test_who_does_not_read_is_dropped_and_who_reads_slowly_is_not() -> None:
    slow, stuck, idle = (Mock(**{"unfinished.return_value": None}) for _ in range(3))
    overseer = Overseer()
    for second in range(40):
        slow.transport.get_write_buffer_size.return_value = 1000 - second
        stuck.transport.get_write_buffer_size.return_value = 1000
        idle.transport.get_write_buffer_size.return_value = 0
        overseer.look([slow, stuck, idle], float(second))
        assert stuck.transport.abort.called == (second > REQUEST_S)
    assert not slow.transport.abort.called
    assert not idle.transport.abort.called
    assert not stuck.transport.close.called


def test_a_request_that_never_ends_is_dropped() -> None:
    one, other = (Mock(**{"transport.get_write_buffer_size.return_value": 0}) for _ in range(2))
    overseer = Overseer()
    for second in range(40):
        one.unfinished.return_value, other.unfinished.return_value = 7, second // 20
        overseer.look([one, other], float(second))
        assert one.transport.close.called == (second > REQUEST_S)
    assert not other.transport.close.called
