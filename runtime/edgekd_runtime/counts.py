"""What a server process has counted, as it stands at a moment, and the sum of several of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgekd_runtime.histogram import Histogram, merged


@dataclass
class Counts:
    """By model, where it is a dict. ``statuses``: answers with each. ``waiting``: requests in line, of ``limit``."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    taken: dict[str, Histogram] = field(default_factory=dict)
    inference: dict[str, Histogram] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    limit: Counter[str] = field(default_factory=Counter)
    resident_bytes: int = 0
    cpu_s: float = 0.0
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return {
            "statuses": self.statuses,
            "taken": _written(self.taken),
            "inference": _written(self.inference),
            "waiting": self.waiting,
            "limit": self.limit,
            "resident_bytes": self.resident_bytes,
            "cpu_s": self.cpu_s,
        }

    def ended(self) -> Counts:
        """Of a process that is no more: nothing waits in it, and it takes no memory."""
        return Counts(self.statuses, self.taken, self.inference, cpu_s=self.cpu_s, processes=0)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Counts:
        statuses = content["statuses"].items()
        return cls(
            {name: Counter({int(status): count for status, count in each.items()}) for name, each in statuses},
            _read(content["taken"]),
            _read(content["inference"]),
            Counter(content["waiting"]),
            Counter(content["limit"]),
            content["resident_bytes"],
            content["cpu_s"],
        )


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of ``parts``."""
    whole = Counts(processes=0)
    for part in parts:
        for name, statuses in part.statuses.items():
            whole.statuses[name] = whole.statuses.get(name, Counter()) + statuses
        for sums, more in ((whole.taken, part.taken), (whole.inference, part.inference)):
            for name, histogram in more.items():
                sums[name] = merged([sums[name], histogram]) if name in sums else histogram
        whole.waiting.update(part.waiting)
        whole.limit.update(part.limit)
        whole.resident_bytes += part.resident_bytes
        whole.cpu_s += part.cpu_s
        whole.processes += part.processes
    return whole


def _written(histograms: dict[str, Histogram]) -> dict[str, Any]:
    return {name: [one.counts, one.total_s] for name, one in histograms.items()}


def _read(content: dict[str, Any]) -> dict[str, Histogram]:
    found = {}
    for name, (counts, total_s) in content.items():
        found[name] = Histogram()
        found[name].counts, found[name].total_s = counts, total_s
    return found
