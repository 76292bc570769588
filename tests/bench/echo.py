"""``echo.py ADDRESS REQUEST_BYTES REPLY_BYTES``: a process that takes requests of one size and answers with another.

What two processes and a socket cost with nothing behind them. Every connection has a thread, which waits for it.
"""

from __future__ import annotations

import socket
import sys
import threading


def main(address: str, request_bytes: int, reply_bytes: int) -> None:
    if address.isdigit():
        listener = socket.create_server(("127.0.0.1", int(address)))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
    reply = bytes(reply_bytes)

    def answer(connection: socket.socket) -> None:
        pending = 0
        while received := len(connection.recv(1 << 18)):
            pending += received
            if pending >= request_bytes:
                pending -= request_bytes
                connection.sendall(reply)

    while True:
        connection, _ = listener.accept()
        if address.isdigit():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
