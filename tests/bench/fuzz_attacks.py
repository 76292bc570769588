"""What a hostile or broken client does. Each attack takes (address, target, random) and reports the status it got."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime_process import Address, connect, post, read_answer

Attack = Callable[[Address, "Target", random.Random], "Sent"]
PATIENCE_S = 10.0  # an answer that takes longer is none
_TRICKLE_S = (0.05, 0.3)


@dataclass(frozen=True)
class Target:
    """``infer``, ``classify``: paths. ``body``: a good JSON body for the first; ``classified``: one for the second."""

    infer: str
    classify: str
    body: dict[str, Any]
    classified: bytes


@dataclass(frozen=True)
class Sent:
    """What was sent, and the status of the answer; None where the server hung up or nothing was to be answered."""

    request: bytes
    status: int | None


def bad_json(address: Address, target: Target, rng: random.Random) -> Sent:
    """A good body with bytes altered, cut off, repeated or of a wild depth."""
    body = bytearray(json.dumps(target.body).encode())
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
    elif kind == 1:
        del body[rng.randrange(len(body)) :]
    elif kind == 2:
        body = body * rng.randint(2, 5)
    else:
        body = bytearray(rng.choice([b"[", b'{"a":', b'{"inputs":[']) * rng.randint(1, 20_000))
    return _exchange(address, post(target.infer, bytes(body), "application/json"))


def wrong_tensor(address: Address, target: Target, rng: random.Random) -> Sent:
    """A good body in which one thing is something else."""
    body = json.loads(json.dumps(target.body))
    places = [(body, key) for key in body] + [(one, key) for one in body["inputs"] for key in one]
    holder, key = rng.choice([*places, (body, "id"), (body, "outputs"), (body, "parameters")])
    strange: list[Any] = [None, True, -1, 0, 2**63, 10**400, 1e308, "", "x" * 5000, [], {}, [[]], [None], {"a": {}}]
    strange += [[1] * 65, [2**31, 2**31], [-1], ["a", 1], [{"name": "nobody"}], "BYTES", "FP16", "INT64", "\ud800"]
    strange += [{"binary_data_size": rng.choice([-1, 0, 5, 2**62])}, {"shared_memory_region": "none"}]
    holder[key] = rng.choice(strange)
    if rng.random() < 0.2:
        del holder[key]
    return _exchange(address, post(target.infer, json.dumps(body).encode(), "application/json"))


def binary_extension(address: Address, target: Target, rng: random.Random) -> Sent:
    """The binary tensor data extension with lengths that do not fit."""
    header = json.loads(json.dumps(target.body))
    one = header["inputs"][0]
    one.pop("data", None)
    tail = rng.randbytes(rng.choice([0, 1, 4, 7, 64, 4096]))
    one["parameters"] = {"binary_data_size": rng.choice([len(tail), 0, 1, 10**9, -4, "4"])}
    if rng.random() < 0.3:
        one["shape"] = rng.choice([[2**40], [0], [1, 2**31], [1] * 40])
    head = json.dumps(header).encode()
    declared = rng.choice([len(head), len(head) - 1, len(head) + 1, 0, 10**12, -1])
    length = rng.choice([str(declared), "x", "1, 2", ""])
    request = post(target.infer, head + tail, "application/octet-stream", Inference_Header_Content_Length=length)
    return _exchange(address, request)


def wrong_raw(address: Address, target: Target, rng: random.Random) -> Sent:
    """Any bytes as any kind of content."""
    kind = rng.choice(["text/plain", "image/png", "image/jpeg", "audio/wav", "application/json", "x", "", "a/b;c=\xff"])
    magic = rng.choice([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\xff\xff\xff\xffWAVEfmt "])
    body = magic + rng.randbytes(rng.choice([0, 1, 10, 1000, 20_000]))
    return _exchange(address, post(rng.choice([target.classify, target.infer]), body, kind))


def not_http(address: Address, target: Target, rng: random.Random) -> Sent:
    """Bytes that are no request, or nearly one."""
    nearly = [
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST "
        + target.infer.encode()
        + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST "
        + target.infer.encode()
        + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nab\r\n0\r\n\r\n",
        b"POST " + target.infer.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /" + b"a" * rng.randint(1, 100_000) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * rng.randint(1, 5000) + b"\r\n",
        b"GET /%ff%00/../..// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
    ]
    return _exchange(address, rng.choice([rng.choice(nearly), rng.randbytes(rng.randint(1, 3000))]))


def slow_loris(address: Address, target: Target, rng: random.Random) -> Sent:
    """A few bytes now and then, and never the end."""
    request = post(target.classify, target.classified, "application/json")
    with contextlib.suppress(OSError), connect(address, PATIENCE_S) as connection:
        for at in range(0, min(len(request), rng.randint(1, 24)), 2):
            connection.sendall(request[at : at + 2])
            time.sleep(rng.uniform(*_TRICKLE_S))
    return Sent(request, None)


def half_closed(address: Address, target: Target, rng: random.Random) -> Sent:
    """Says that nothing more will come, in the middle of a request or after it."""
    request = post(target.classify, target.classified, "application/json")
    return _exchange(address, request[: rng.choice([len(request), rng.randrange(len(request))])], half_close=True)


def leaves(address: Address, target: Target, rng: random.Random) -> Sent:
    """Many requests at once, and away without reading an answer; sometimes with a reset."""
    request = post(target.classify, target.classified, "application/json") * rng.randint(1, 200)
    with contextlib.suppress(OSError), connect(address, PATIENCE_S) as connection:
        if rng.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(request[: rng.randint(1, len(request))])
    return Sent(request[:2000], None)


def other_methods(address: Address, target: Target, rng: random.Random) -> Sent:
    """Any method at any path, paths of ours among them."""
    paths = [target.infer, target.classify, "/", "/v2", "/metrics", "/healthz", "/openapi.json", "/v2/repository/index"]
    paths += [target.infer.rsplit("/", 1)[0], "/v2/repository/models/nobody/unload", "*", "http://x/v2", "/v1/models"]
    method = rng.choice(["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
    request = f"{method} {rng.choice(paths)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}"
    return _exchange(address, request.encode())


ATTACKS: tuple[Attack, ...] = (
    *(bad_json, wrong_tensor, binary_extension, wrong_raw, not_http),
    *(slow_loris, half_closed, leaves, other_methods),
)


def _exchange(address: Address, request: bytes, *, half_close: bool = False) -> Sent:
    """Status None: hung up, or it waits for more that is not going to come."""
    try:
        with connect(address, PATIENCE_S) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it has read all
                connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.5 if not half_close else PATIENCE_S)
            return Sent(request, read_answer(connection)[0])
    except (OSError, ValueError):
        return Sent(request, None)
