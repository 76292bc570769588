"""The table of routes: which path, by which method, is answered by what.

A route's path is a template. ``{model}`` and ``{version}`` are filled in for every model that is loaded, and its
handler is made anew with each model, so that it can prepare what does not change; looking up a request is then one
step. ``{name}`` is whatever the client says. ``request`` and ``response`` name schemas of
:mod:`edgekd_runtime.wire.schemas`, or media types, for the OpenAPI document; ``request`` None: there is no body.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd_runtime import errors, logs
from edgekd_runtime.counts import Counts, total
from edgekd_runtime.engine import Engine
from edgekd_runtime.histogram import Histogram, merged
from edgekd_runtime.lanes import Company, Handler, Lane
from edgekd_runtime.metrics import Meter, resident_bytes
from edgekd_runtime.reply import Body, Headers, Post, Reply, error_reply, fault_reply
from edgekd_runtime.timing import answer_us
from edgekd_runtime.wire import compressed

_CODING = "content-encoding"

if TYPE_CHECKING:
    from edgekd_runtime.repository import Repository
    from edgekd_runtime.siblings import Siblings


@dataclass(frozen=True)
class Route:
    """One request that is the same whatever is loaded. ``make`` is called once for each server."""

    method: str
    path: str
    summary: str
    make: Callable[[Site], Post]
    request: str | None = None
    response: str = "application/json"


@dataclass(frozen=True)
class ModelRoute:
    """One request to a model, ``{model}`` in its path. ``make`` is called with every model that is loaded."""

    method: str
    path: str
    summary: str
    make: Callable[[Site, Engine], Post]
    request: str | None = None
    response: str = "application/json"


@dataclass(frozen=True)
class NameRoute:
    """One request with a ``{name}`` that nobody knows before it comes. Runs in a thread: it may take long."""

    method: str
    path: str
    summary: str
    make: Callable[[Site, str], Post]
    request: str | None = None
    response: str = "application/json"


AnyRoute = Route | ModelRoute | NameRoute


@dataclass(frozen=True)
class Limits:
    """``queue``: requests that may wait before a model's threads. ``deadline_ms``: when an answer is given up, unless
    the client says less. ``inline_us``: models that answer faster run on the event loop; ``alone_us``: so do those
    while there is one client, for handing them to a thread costs it 70 µs, and where threads are woken late 400.
    """

    queue: int = 64
    deadline_ms: float | None = None
    inline_us: float = 300.0
    alone_us: float = 10_000.0


class Site:
    """What a server serves. ``models``: name → engine. ``routes``: all there are, for whoever describes them.

    Changed by the event loop's thread alone, and never half: a request finds the old model or the new one.
    """

    def __init__(self, models: Mapping[str, Engine], routes: Sequence[AnyRoute], limits: Limits | None = None) -> None:
        self.routes = tuple(routes)
        self.limits = limits or Limits()
        self.models: dict[str, Engine] = {}
        self.meters: dict[str, Meter] = {}
        self.lanes: dict[str, Lane] = {}
        self.company = Company()
        self.is_draining = False
        self.max_inflated_bytes = 16 << 20  # of a compressed body; whoever serves sets its own limit
        self.repository: Repository | None = None
        self.siblings: Siblings | None = None
        self._earlier: dict[str, Histogram] = {}  # what interpreters took that have been replaced
        self._earlier_cpu_s = 0.0
        self._repository_lane: Lane | None = None
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._paths_of: dict[str, list[str]] = {}
        self._templates = [(_pattern(route.path), route) for route in self.routes if not isinstance(route, Route)]
        for route in self.routes:
            if isinstance(route, Route):
                self._handlers.setdefault(route.path, {})[route.method] = Handler(
                    self._safe(route.make(self), route.path)
                )
        self._own_paths = frozenset(self._handlers)
        for name, engine in models.items():
            self.add(name, engine, self.lane_for(name, engine))

    def lane_for(self, name: str, engine: Engine) -> Lane | None:
        """Threads for ``engine``, unless it is small. Runs the model a few times, which is not counted."""
        try:
            taken_us = answer_us(engine) if len(engine.pool) == 1 else math.inf
        except errors.InputError:  # a model without samples that cannot run on zeros
            taken_us = math.inf
        engine.pool.count_from_now()
        if taken_us <= self.limits.inline_us:
            return None
        is_short = taken_us <= self.limits.alone_us
        return Lane(f"edgekd-{name}", len(engine.pool), self.limits.queue, is_short=is_short)

    def add(self, name: str, engine: Engine, lane: Lane | None) -> None:
        """Serve ``engine`` as ``name``, in place of what had that name before; that finishes what it has begun."""
        meter = self.meters.setdefault(name, Meter())
        runs: dict[str, Any] = {"lane": lane, "meter": meter, "deadline_ms": self.limits.deadline_ms}
        made: dict[str, dict[str, Handler]] = {}
        for route in self.routes:
            if isinstance(route, ModelRoute):
                path = route.path.format(model=name, version=engine.bundle.version)
                if path in self._own_paths:  # a model of the name "stats"
                    continue
                post = self._safe(route.make(self, engine), f"model {name}")
                made.setdefault(path, {})[route.method] = Handler(post, **(runs if route.method == "POST" else {}))
        self._forget(name, but=made)
        self._remember(name)
        self.models[name] = engine
        self._handlers.update(made)
        self._paths_of[name] = list(made)
        if lane is not None:
            self.lanes[name] = lane

    def remove(self, name: str) -> None:
        """Serve ``name`` no longer."""
        self._remember(name)
        del self.models[name]
        self._forget(name, but={})

    def counts(self) -> Counts:
        """What this process has counted."""
        return Counts(
            {name: Counter(meter.statuses) for name, meter in self.meters.items()},
            {name: meter.taken for name, meter in self.meters.items()},
            self._inference(),
            Counter({name: lane.depth for name, lane in self.lanes.items()}),
            Counter({name: lane.limit for name, lane in self.lanes.items()}),
            resident_bytes(),
            self._earlier_cpu_s + time.process_time(),
        )

    def all_counts(self) -> Counts:
        """What all server processes have counted, the others up to a second ago."""
        return total([self.counts(), *(self.siblings.others() if self.siblings else ())])

    def go_on_from(self, earlier: Counts) -> None:
        """Count on from what a process that has died had counted."""
        self._earlier, self._earlier_cpu_s = dict(earlier.inference), earlier.cpu_s
        for name, taken in earlier.taken.items():
            meter = self.meters.setdefault(name, Meter())
            meter.statuses, meter.taken = dict(earlier.statuses.get(name, {})), taken

    def _inference(self) -> dict[str, Histogram]:
        found = dict(self._earlier)
        for name, engine in self.models.items():
            times = engine.pool.times()
            found[name] = merged([found[name], times]) if name in found else times
        return found

    def _remember(self, name: str) -> None:
        if name in self.models:
            self._earlier[name] = self._inference()[name]

    def close(self) -> None:
        """End all threads once they have answered what waits."""
        for lane in self.lanes.values():
            lane.close()
        if self._repository_lane is not None:
            self._repository_lane.close()

    def _forget(self, name: str, but: Mapping[str, object]) -> None:
        for path in self._paths_of.pop(name, ()):
            if path not in but:
                del self._handlers[path]
        if name in self.lanes:
            self.lanes.pop(name).close()

    def find(self, method: str, path: str) -> Handler | Reply:
        """What answers; or the refusal, where nothing does."""
        methods = self._handlers.get(path)
        if methods is None:
            return self._by_template(method, path)
        answer = methods.get("GET" if method == "HEAD" else method)
        return answer if answer is not None else _wrong_method(methods)

    def aside(self, post: Post, what: str) -> Handler:
        """``post`` in a thread for what takes long and concerns the models themselves, one at a time."""
        self._repository_lane = self._repository_lane or Lane("edgekd-repository", workers=1, limit=16)
        return Handler(self._safe(post, what), lane=self._repository_lane)

    def _safe(self, answer: Post, what: str) -> Post:
        """``answer``, also of compressed bodies, with faults as replies.

        What nobody foresaw goes to the log, not to the client.
        """

        def call(body: Body, headers: Headers) -> Reply:
            try:
                if _CODING in headers:
                    body = compressed.inflate(body, headers[_CODING], self.max_inflated_bytes)
                return answer(body, headers)
            except errors.RuntimeFault as fault:
                return fault_reply(fault)
            except Exception:
                name = logs.request_id(headers)
                logs.failure("failed", what=what, request=name)
                told = f"the server failed on this request; its log says why under {name}"
                return error_reply(500, told, ((logs.REQUEST_ID, name),))

        return call

    def _by_template(self, method: str, path: str) -> Handler | Reply:
        """A route with a name; or whether it is the path or only the model that does not exist."""
        for pattern, route in self._templates:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if isinstance(route, ModelRoute):
                return fault_reply(self._missing(**found.groupdict()))
            if method != route.method:
                return _wrong_method([route.method])
            return self.aside(route.make(self, found["name"]), path)
        return error_reply(404, "there is nothing at this path")

    def _missing(self, model: str, version: str | None = None) -> errors.ModelNotFoundError:
        engine = self.models.get(model)
        if engine is None or version is None:
            loaded = ", ".join(self.models) or "none"
            return errors.ModelNotFoundError(f"there is no model {model!r} here; loaded: {loaded}")
        return errors.ModelNotFoundError(
            f"model {model!r} has no version {version!r} here; loaded: {engine.bundle.version}"
        )


def _wrong_method(methods: Iterable[str]) -> Reply:
    return error_reply(405, "this path does not take that method", (("allow", ", ".join(methods)),))


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+)" for i, part in enumerate(parts)))
