"""What a connection holds is let go when it ends."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from edgekd_runtime.patience import limited
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
