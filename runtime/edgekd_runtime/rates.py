"""How often each client may ask: a bucket of tokens for each address, in bounded memory."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from edgekd_runtime.reply import Guard, Headers, Reply, error_reply

_MAX_CLIENTS = 4096
_BURST_S = 1.0  # so many seconds' worth may come at once


def rate_guard(per_second: float, clock: Callable[[], float] = time.monotonic) -> Guard:
    """Refuses a client's requests beyond ``per_second``, bursts of one second's worth (at least one) apart.

    A client is an address, of IPv6 the network of 64 bits that one customer has. Clients on a unix socket are this
    machine's own and not counted. Of more than 4,096 clients the one that asked longest ago is forgotten.
    """
    burst = max(1.0, per_second * _BURST_S)
    buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client → tokens left, when that was

    def guard(headers: Headers, path: str, client: str | None) -> Reply | None:
        if client is None:
            return None
        now = clock()
        client = client_key(client)
        left, since = buckets.pop(client, (burst, now))
        left = min(burst, left + (now - since) * per_second)
        allowed = left >= 1
        buckets[client] = (left - 1 if allowed else left, now)
        if len(buckets) > _MAX_CLIENTS:
            buckets.popitem(last=False)
        if allowed:
            return None
        wait = ("retry-after", str(math.ceil((1 - left) / per_second)))
        return error_reply(429, f"more than {per_second:g} requests a second from your address; wait", (wait,))

    return guard


def client_key(client: str) -> str:
    """What stands for a client's address: of IPv6 its network."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.split("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
