"""Hostile clients of the framed protocol (``--ipc``)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct

from edgekd_runtime.frames import MAGIC, PREFIX
from fuzz_attacks import PATIENCE_S, Attack, Sent, Target
from runtime_ours import frame
from runtime_process import Address, connect, post, read_frame


def random_bytes(address: Address, target: Target, rng: random.Random) -> Sent:
    """Any bytes, sometimes behind a good magic number."""
    return _exchange(address, rng.choice([b"", MAGIC]) + rng.randbytes(rng.randint(1, 5000)))


def wrong_prefix(address: Address, target: Target, rng: random.Random) -> Sent:
    """Lengths and a version that are not those of what follows."""
    good = _good(target)
    version = rng.choice([MAGIC, MAGIC[:3] + bytes([rng.randrange(256)])])
    head = rng.choice([0, 1, 8192, 65535, rng.randrange(65536)])
    body = rng.choice([0, 1, 2**31, 2**32 - 1, rng.randrange(2**32)])
    return _exchange(address, PREFIX.pack(version, head, rng.randrange(1000), 7, body) + good[PREFIX.size :])


def altered(address: Address, target: Target, rng: random.Random) -> Sent:
    """A good frame with bytes altered, or cut off."""
    content = bytearray(_good(target))
    for _ in range(rng.randint(1, 6)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return _exchange(address, bytes(content[: rng.choice([len(content), rng.randrange(len(content))])]))


def wrong_head(address: Address, target: Target, rng: random.Random) -> Sent:
    """Other methods, paths and lines; places in shared memory that was never given."""
    first = rng.choice(["GET /", "POST " + target.infer, "PUT /v2", "", "GET", "POST x", "GET /" + "a" * 9000])
    lines = [f"shared-body: {rng.choice(['0 10', '-1 5', f'{2**40} 8', 'x', '5'])}", "shared-reply: 0 99999999"]
    lines += [
        "content-type",
        ": x",
        "content-type: application/json",
        "inference-header-content-length: 99",
        "\xff: \xff",
    ]
    head = "\n".join([first, *rng.sample(lines, rng.randint(0, 4))]).encode("latin-1")
    body = rng.randbytes(rng.choice([0, 3, 1000]))
    return _exchange(address, PREFIX.pack(MAGIC, min(len(head), 65535), 0, 1, len(body)) + head + body)


def shared_memory(address: Address, target: Target, rng: random.Random) -> Sent:
    """Memory that is empty, or shrinks, or is no memory; and places in it that are not there."""
    size = rng.choice([0, 1, 4096, 1 << 20])
    body = json.dumps(target.body).encode()
    place = rng.choice([(0, len(body)), (size, 1), (0, size + 1), (2**39, 2**39), (1, 0), (0, size)])
    lines = f"POST {target.infer}\ncontent-type: application/json\nshared-body: {place[0]} {place[1]}"
    head = (
        lines + rng.choice(["", f"\nshared-reply: {rng.choice([0, size, 2**39])} {rng.choice([1, size, 2**39])}"])
    ).encode()
    request = PREFIX.pack(MAGIC, len(head), 0, 3, 0) + head
    memory = os.memfd_create("fuzz") if rng.random() < 0.8 else os.open("/dev/null", os.O_RDWR)
    try:
        with contextlib.suppress(OSError):
            os.truncate(memory, size)
            os.pwrite(memory, body[:size], 0)
        with connect(address, PATIENCE_S) as connection:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", memory) * rng.choice([1, 1, 3]))]
            connection.sendmsg([request], ancillary)
            if rng.random() < 0.5:
                with contextlib.suppress(OSError):
                    os.truncate(memory, 0)
            connection.settimeout(1)
            return Sent(request, read_frame(connection)[0])
    except (OSError, ValueError):
        return Sent(request, None)
    finally:
        os.close(memory)


def leaves(address: Address, target: Target, rng: random.Random) -> Sent:
    """Many frames at once, and away without reading an answer."""
    request = _good(target) * rng.randint(1, 100)
    with contextlib.suppress(OSError), connect(address, PATIENCE_S) as connection:
        connection.sendall(request[: rng.randint(1, len(request))])
    return Sent(request[:2000], None)


FRAME_ATTACKS: tuple[Attack, ...] = (random_bytes, wrong_prefix, altered, wrong_head, shared_memory, leaves)


def _good(target: Target) -> bytes:
    return frame(post(target.classify, target.classified, "application/json"))


def _exchange(address: Address, request: bytes) -> Sent:
    try:
        with connect(address, PATIENCE_S) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            connection.settimeout(0.5)
            return Sent(request, read_frame(connection)[0])
    except (OSError, ValueError):
        return Sent(request, None)
