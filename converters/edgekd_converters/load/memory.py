"""How much private memory a front end may take: in proportion to the weights, and never more than the machine has.

A limit on address space would not do: TensorFlow maps far more than it fills. What is limited here, private data, is
still up to twice of what is filled, since protobuf takes memory in doubling steps.
"""

from __future__ import annotations

import os
import resource

_BASE_BYTES = 4 << 30  # TensorFlow and torch with their threads take less than one
_PER_BYTE = 40  # of the weights: these some ten times over, and a converter's wastefulness


def limit_memory(weight_bytes: int) -> None:
    """Of this process, from now on."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_within(weight_bytes, most), most))


def allow_memory(weight_bytes: int) -> None:
    """Raise the limit, if there is one, for weights that turned out to be larger than the file."""
    now, most = resource.getrlimit(resource.RLIMIT_DATA)
    if now != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (max(now, _within(weight_bytes, most)), most))


def _within(weight_bytes: int, most: int) -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = min(_BASE_BYTES + _PER_BYTE * weight_bytes, max(_BASE_BYTES, machine))
    return limit if most == resource.RLIM_INFINITY else min(limit, most)
