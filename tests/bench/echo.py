"""``echo.py ADDRESS REQUEST_BYTES REPLY_BYTES``: a process that takes requests of one size and answers with another.

What two processes and a socket cost with nothing behind them. Every connection has a thread, which waits for it. With
``BUNDLE THREADS [TEXT]`` after them the model is called before each answer, and nothing is made of what it gives.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def main(address: str, request_bytes: int, reply_bytes: int, call: Callable[[], object] | None) -> None:
    if address.isdigit():
        listener = socket.create_server(("127.0.0.1", int(address)))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
    reply = bytes(reply_bytes)

    def answer(connection: socket.socket) -> None:
        pending = 0
        with suppress(ConnectionError):  # a load generator leaves without reading all
            while received := len(connection.recv(1 << 18)):
                pending += received
                if pending >= request_bytes:
                    pending -= request_bytes
                    if call is not None:
                        call()
                    connection.sendall(reply)

    while True:
        connection, _ = listener.accept()
        if address.isdigit():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def _call(bundle: str, threads: str, text: str | None = None) -> Callable[[], object]:
    from runtime_latency import bare_call  # with numpy and the interpreter, which the bare echo does without
    from runtime_models import Served

    return bare_call(Served(Path(bundle).stem, Path(bundle), Path(), text), int(threads))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), _call(*sys.argv[4:]) if len(sys.argv) > 4 else None)
