"""The table of routes: which path, by which method, is answered by what.

A route's path is a template. ``{model}`` and ``{version}`` are filled in for every model that is loaded, and its
handler is made anew with each model, so that it can prepare what does not change; looking up a request is then one
step. ``{name}`` is whatever the client says.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd_runtime import errors
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Headers, Post, Reply, error_reply, fault_reply

_log = logging.getLogger("edgekd_runtime")


@dataclass(frozen=True)
class Route:
    """One request that is the same whatever is loaded. ``make`` is called once for each server."""

    method: str
    path: str
    summary: str
    make: Callable[[Site], Post]


@dataclass(frozen=True)
class ModelRoute:
    """One request to a model, ``{model}`` in its path. ``make`` is called with every model that is loaded."""

    method: str
    path: str
    summary: str
    make: Callable[[Engine], Post]


AnyRoute = Route | ModelRoute


class Site:
    """What a server serves. ``models``: name → engine. ``routes``: all there are, for whoever describes them."""

    def __init__(self, models: Mapping[str, Engine], routes: Sequence[AnyRoute]) -> None:
        self.routes = tuple(routes)
        self.models: dict[str, Engine] = {}
        self._answers: dict[str, dict[str, Post]] = {}
        self._of_model: dict[str, list[str]] = {}
        self._templates = [(_pattern(route.path), route) for route in self.routes]
        for route in self.routes:
            if isinstance(route, Route):
                self._answers.setdefault(route.path, {})[route.method] = guarded(route.make(self), route.path)
        for name, engine in models.items():
            self.add(name, engine)

    def add(self, name: str, engine: Engine) -> None:
        """Serve ``engine`` as ``name``, in place of what had that name before."""
        made: dict[str, dict[str, Post]] = {}
        for route in self.routes:
            if isinstance(route, ModelRoute):
                path = route.path.format(model=name, version=engine.bundle.version)
                made.setdefault(path, {})[route.method] = guarded(route.make(engine), f"model {name}")
        stale = [path for path in self._of_model.get(name, ()) if path not in made]
        self.models[name] = engine
        self._answers.update(made)
        self._of_model[name] = list(made)
        for path in stale:
            del self._answers[path]

    def remove(self, name: str) -> None:
        """Serve ``name`` no longer."""
        del self.models[name]
        for path in self._of_model.pop(name):
            del self._answers[path]

    def find(self, method: str, path: str) -> Post | Reply:
        """What answers; or the refusal, where nothing does."""
        methods = self._answers.get(path)
        if methods is None:
            return self._nothing_at(path)
        answer = methods.get("GET" if method == "HEAD" else method)
        if answer is None:
            return error_reply(405, "this path does not take that method", (("allow", ", ".join(methods)),))
        return answer

    def _nothing_at(self, path: str) -> Reply:
        """Whether it is the path or only the model that does not exist."""
        for pattern, route in self._templates:
            if isinstance(route, ModelRoute) and (found := pattern.fullmatch(path)):
                return fault_reply(self._missing(**found.groupdict()))
        return error_reply(404, "there is nothing at this path")

    def _missing(self, model: str, version: str | None = None) -> errors.ModelNotFoundError:
        engine = self.models.get(model)
        if engine is None or version is None:
            loaded = ", ".join(self.models) or "none"
            return errors.ModelNotFoundError(f"there is no model {model!r} here; loaded: {loaded}")
        return errors.ModelNotFoundError(
            f"model {model!r} has no version {version!r} here; loaded: {engine.bundle.version}"
        )


def guarded(answer: Post, what: str) -> Post:
    """``answer`` with its faults as replies; what nobody foresaw goes to the log, not to the client."""

    def call(body: bytes, headers: Headers) -> Reply:
        try:
            return answer(body, headers)
        except errors.RuntimeFault as fault:
            return fault_reply(fault)
        except Exception:
            _log.exception("%s failed on a request", what)
            return error_reply(500, "the server failed on this request; its log says why")

    return call


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+)" for i, part in enumerate(parts)))
