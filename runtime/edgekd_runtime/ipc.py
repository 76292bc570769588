"""The server of the local protocol (:mod:`edgekd_runtime.frames`), on the event loop of the HTTP server.

The same routes, guards, lanes and limits answer as over HTTP. Sockets are read when the loop finds them readable,
without a transport between: that costs less for each answer, and descriptors of shared memory can come along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence

from edgekd_runtime import frames, shared
from edgekd_runtime.accepting import ACCEPT_PAUSE_S, clients
from edgekd_runtime.errors import BodyTooLargeError, InputError, RuntimeFault
from edgekd_runtime.lanes import Handler
from edgekd_runtime.poll import BusyPoll
from edgekd_runtime.reply import Body, Guard, Reply, error_reply, fault_reply, too_large
from edgekd_runtime.routes import Site
from edgekd_runtime.server import LINGER_S, refusal

_PREFIX_BYTES = frames.PREFIX.size
_MAX_CONNECTIONS = 128
_MAX_PENDING = 16
_BUFFER_BYTES = 1 << 18  # pages that nothing has been read into take no memory
_MAX_HEADS, _MAX_HEAD_BYTES = 256, 2048
_FRAME_TIMEOUT_S = 30.0
_CLOSE = ("connection", "close")
"""Said while the server ends: what is asked after this reply by the same connection may not be answered any more."""


class IpcServer:
    """Answers ``site`` to the clients of a listening unix socket."""

    def __init__(self, site: Site, guards: Sequence[Guard], max_body_bytes: int, poll: BusyPoll) -> None:
        self.site = site
        self.guards = tuple(guards)
        self.max_body_bytes = max_body_bytes
        self.poll = poll
        self.connections: set[_Connection] = set()
        self.heads: dict[bytes, frames.RequestHead] = {}
        self._listening: socket.socket | None = None

    def start(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        """Take clients from now on. ``listening`` stays the caller's to close."""
        listening.setblocking(False)
        self._listening = listening
        loop.add_reader(listening, self._accept, loop, listening)

    def _accept(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        def rest() -> None:
            loop.remove_reader(listening)
            loop.call_later(ACCEPT_PAUSE_S, self._accept_again, loop, listening)

        for sock, _ in clients(listening, rest):
            sock.setblocking(False)
            self.take(loop, sock)

    def take(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        """Serve a client that is connected; ``sock`` does not block."""
        connection = _Connection(self, loop, sock)
        self.connections.add(connection)
        if len(self.connections) > _MAX_CONNECTIONS:
            said = f"{_MAX_CONNECTIONS} clients are connected already"
            connection.refuse(0, error_reply(503, said, (("retry-after", "1"),)))
            connection.close()  # at once: so many must not linger

    def _accept_again(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        if self._listening is not None:
            loop.add_reader(listening, self._accept, loop, listening)

    def meet(self, raw: bytes) -> frames.RequestHead:
        """A head that is not among ``heads``. A client says the same every time: it is parsed once.

        Raises ``InputError``.
        """
        head = frames.parse_request(raw)
        if len(self.heads) < _MAX_HEADS and len(raw) <= _MAX_HEAD_BYTES:
            self.heads[raw] = head
        return head

    def stop(self) -> None:
        """Take those who have connected, and nobody after them."""
        if self._listening is not None:
            loop, listening, self._listening = asyncio.get_running_loop(), self._listening, None
            self._accept(loop, listening)
            loop.remove_reader(listening)

    async def shutdown(self, timeout_s: float) -> None:
        """Answer what was asked, and let go of the clients."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while True:
            finished = [one.finish() for one in list(self.connections)]
            if all(finished) or loop.time() > give_up:
                break
            await asyncio.sleep(0.01)
        for one in list(self.connections):
            one.close()


class _Connection:
    """One client. Its frames are gathered in ``_buffer``, which grows only as bytes arrive."""

    def __init__(self, server: IpcServer, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._server = server
        self._loop = loop
        self._sock = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0
        self._out = bytearray()
        self._pending = 0
        self._memory: shared.SharedMemory | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_reading = self._is_open = True
        self._ends = False  # once all that waits to be sent is sent
        loop.add_reader(sock, self._readable)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is owed or half sent."""
        return self._pending > 0 or len(self._out) > 0

    def close(self) -> None:
        """Hang up."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        if self._memory is not None:
            self._memory.close()
        if self._timer is not None:
            self._timer.cancel()
        self._server.connections.discard(self)

    def _readable(self) -> None:
        self._server.poll.asked()
        try:
            room = self._buffer[self._filled :] if self._filled else self._buffer
            count, ancillary, _, _ = self._sock.recvmsg_into((room,), shared.ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if ancillary:
            self._share(shared.descriptors(ancillary))
        if count == 0:
            self._left()
            return
        self._filled += count
        self._answer_frames()

    def _left(self) -> None:
        """The client sends no more; what it still waits for it is given."""
        self._pause()
        self._ends = True
        if not self.is_busy:
            self.close()

    def finish(self) -> bool:
        """Answer what has been sent by now, and hang up; to be called again until it has."""
        if self._is_reading and not self._ends:
            self._readable()
            if self._is_open and self._is_reading:  # all that has come is asked, and no more will be
                self._pause()
                self._ends = True
                if not self.is_busy:
                    self._hang_up()
        return not self._is_open or (self._ends and not self.is_busy)

    def _share(self, fds: list[int]) -> None:
        """Take the last descriptor for this client's memory, in place of what it shared before."""
        for fd in fds[:-1]:
            os.close(fd)
        if fds and self._memory is not None:
            self._memory.close()
            self._memory = None
        for fd in fds[-1:]:
            with contextlib.suppress(InputError):  # whoever names that memory will be told
                self._memory = shared.SharedMemory(fd)

    def _answer_frames(self) -> None:
        at, buffer = 0, self._buffer
        while self._is_open and not self._ends and self._is_reading and self._filled - at >= _PREFIX_BYTES:
            magic, head_size, _, request_id, body_size = frames.PREFIX.unpack_from(buffer, at)
            if magic != frames.MAGIC or head_size > frames.MAX_HEAD:
                self.refuse(0, fault_reply(InputError("that is no frame of version 1")))
                break
            if body_size > self._server.max_body_bytes:
                self.refuse(request_id, too_large(self._server.max_body_bytes))
                break
            head_at = at + _PREFIX_BYTES
            body_at = head_at + head_size
            end = body_at + body_size
            if end > self._filled:
                self._wait_for(end - at, at)
                return
            at = end
            self._ask(buffer[head_at:body_at].tobytes(), request_id, buffer[body_at:end])
        if at == self._filled and self._timer is None and len(buffer) == _BUFFER_BYTES:
            self._filled = 0  # mostly
        elif self._is_open:
            self._keep(at)
            self._watch(self._filled > 0 and self._is_reading)

    def _wait_for(self, size: int, at: int) -> None:
        """Make room for a frame of ``size`` bytes, at most twice of what has come of it."""
        self._keep(at)
        if size > len(self._buffer) and self._filled == len(self._buffer):
            grown = bytearray(min(size, 2 * self._filled))
            grown[: self._filled] = self._buffer
            self._buffer = memoryview(grown)
        self._watch(True)

    def _keep(self, at: int) -> None:
        """What is left from ``at`` on moves to the front; a large frame's room is given back."""
        left = max(0, self._filled - at)
        if left == 0 and len(self._buffer) > _BUFFER_BYTES:
            self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        elif at and left:
            self._buffer[:left] = self._buffer[at : self._filled]
        self._filled = left

    def _watch(self, is_half: bool) -> None:
        """A frame that has begun must come to an end in time."""
        if self._timer is not None and not is_half:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and is_half:
            self._timer = self._loop.call_later(_FRAME_TIMEOUT_S, self.close)

    def _ask(self, raw_head: bytes, request_id: int, body: Body) -> None:
        server, reply_at = self._server, None
        is_alone = server.site.company.asked(self)
        try:
            head = server.heads.get(raw_head) or server.meet(raw_head)
            reply_at = head.reply
            found = refusal(server.guards, head.headers, head.path, None) or server.site.find(head.method, head.path)
            if head.body is not None:
                body = self._shared_body(head.body)
        except RuntimeFault as fault:
            found = fault_reply(fault)
        if isinstance(found, Reply):
            self._send(request_id, found, reply_at)
        elif found.is_now(head.headers, is_alone):
            self._send(request_id, found.now(body, head.headers), reply_at)
            server.poll.answered(self._loop)
        else:
            self._ask_lane(found, head, request_id, bytes(body))

    def _ask_lane(self, handler: Handler, head: frames.RequestHead, request_id: int, body: bytes) -> None:
        self._pending += 1
        if self._pending >= _MAX_PENDING:
            self._pause()

        def done(reply: Reply) -> None:
            self._pending -= 1
            if self._is_open:
                self._send(request_id, reply, head.reply)
                self._resume()

        handler.later(body, head.headers, self._loop, done)

    def _shared_body(self, place: frames.Span) -> bytes:
        if self._memory is None:
            raise InputError("no shared memory has come with this or an earlier frame")
        if place.size > self._server.max_body_bytes:
            raise BodyTooLargeError(f"shared-body is of more than {self._server.max_body_bytes} bytes")
        return self._memory.read(place)

    def refuse(self, request_id: int, reply: Reply) -> None:
        """Answer what cannot be read on after, and hang up."""
        self._pause()
        self._ends = True
        self._filled = 0
        self._send(request_id, reply, None)

    def _send(self, request_id: int, reply: Reply, place: frames.Span | None) -> None:
        headers = (*reply.headers, _CLOSE) if self._server.site.is_draining else reply.headers
        lines, body = frames.reply_lines(reply.content_type, headers), reply.body
        if place is not None and self._memory is not None and self._memory.write(place, body):
            lines += f"\n{frames.SHARED_BODY}: {place.offset} {len(body)}".encode()
            body = b""
        data = frames.frame_head(reply.status, request_id, lines, len(body)) + body
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._out += data[sent:]
            self._pause()
            self._loop.add_writer(self._sock, self._writable)
        elif self._ends and not self._pending:
            self._hang_up()

    def _writable(self) -> None:
        try:
            del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not self._out:
            self._loop.remove_writer(self._sock)
            if not self._ends:
                self._resume()
            elif not self._pending:
                self._hang_up()

    def _hang_up(self) -> None:
        """What is still coming must be read, or the kernel would throw the answer away with it."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._loop.add_reader(self._sock, self._discard)
        self._discard()
        if self._is_open:
            self._loop.call_later(LINGER_S, self.close)

    def _discard(self) -> None:
        try:
            if not self._sock.recv_into(self._buffer):
                self.close()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()

    def _pause(self) -> None:
        """Ask this client nothing more until it has its answers."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._sock)

    def _resume(self) -> None:
        if not self._is_reading and not self._out and self._pending < _MAX_PENDING and not self._ends:
            self._is_reading = True
            self._loop.add_reader(self._sock, self._readable)
            self._loop.call_soon(self._answer_frames)  # not now: it may be what has called
