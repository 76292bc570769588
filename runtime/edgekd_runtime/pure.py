"""The protocol for where httptools is not installed: uvicorn's on h11, which is pure Python."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgekd_runtime.patience import NO_HTTP, last_words


class PatientH11(H11Protocol):
    """Every request goes through ASGI: slower, same answers."""

    def unfinished(self) -> object:
        """What stands for the request that has begun to arrive; None between two requests."""
        state = self.conn.their_state
        if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
            return (state, id(self.cycle))
        return None

    def send_400_response(self, msg: str) -> None:
        self.transport.write(last_words(400, NO_HTTP))
        self.transport.close()
