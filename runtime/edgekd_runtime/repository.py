"""Models that come and go while the server runs (OIP's model repository extension).

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
A bundle is tried in a child process, then opened beside the old one, then takes its place; whatever fails before leaves
the old one serving. Requests that the old one has begun are answered by it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from edgekd_runtime import logs
from edgekd_runtime.bundle import Bundle, is_name, load_bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import BundleError, ModelNotFoundError, RuntimeFault
from edgekd_runtime.members import sha256
from edgekd_runtime.routes import Site
from edgekd_runtime.trial import CHANGED, try_bundle

SUFFIX = ".edgekd"
Verb = Literal["load", "unload"]
_UNLOADED = "unloaded"


@dataclass(frozen=True)
class Entry:
    """A model of the repository. ``version`` is empty unless it is served; ``reason``: why it is not."""

    name: str
    version: str
    reason: str

    @property
    def is_ready(self) -> bool:
        return bool(self.version)


class Repository:
    """Bundles by name: files that were named one by one, and every ``NAME.edgekd`` in a folder.

    ``load``, ``unload`` and ``reload`` take long and may be called from any thread but the event loop's.
    """

    def __init__(
        self,
        open_engine: Callable[[Path], Engine],
        folder: Path | None = None,
        backend: str = "auto",
        check: Callable[[Path], Bundle] = load_bundle,
        unloaded: Collection[str] = (),
    ) -> None:
        """``open_engine``: a bundle's path → the engine that is to serve it. ``unloaded``: models not to start with.

        ``check`` raises ``BundleError`` for bundles that are not trusted: they may not run, not even in a trial.
        """
        self._check = check
        self._open_engine = open_engine
        self._folder = folder
        self._backend = backend
        self._paths: dict[str, Path] = {}
        self.named: dict[str, str] = {}
        """Path → model, of those that were named one by one."""
        self._reasons: dict[str, str] = dict.fromkeys(unloaded, _UNLOADED)
        self._lock = threading.Lock()
        self._site: Site | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open_named(self, paths: tuple[Path, ...], known: Mapping[str, str] = MappingProxyType({})) -> dict[str, Engine]:
        """The models to start with that were named one by one. Raises what ``open_engine`` does.

        ``known``: ``named`` of a server process that was before this one; what it has served is no reason not to start.
        """
        engines: dict[str, Engine] = {}
        for path in paths:
            try:
                engine = self._open_engine(path)
            except RuntimeFault as fault:
                if str(path) not in known:
                    raise
                self._name(known[str(path)], path)
                self._refuse(known[str(path)], str(fault))
                continue
            name = engine.bundle.name
            if name in engines:
                raise BundleError(
                    f"{path}: a model {name!r} is in {self._paths[name]} already; give one another --name"
                )
            self._name(name, path)
            if name not in self._reasons:
                engines[name] = engine
                engine.forget_model()
        return engines

    def _name(self, name: str, path: Path) -> None:
        self._paths[name] = path
        self.named[str(path)] = name

    def open_folder(self, taken: dict[str, Engine]) -> dict[str, Engine]:
        """The models of the folder; those that fail are noted in the index, with the reason, and in the log."""
        engines: dict[str, Engine] = {}
        for name, path in self._in_folder():
            if self._reasons.get(name) == _UNLOADED:
                continue
            if name in taken:
                self._refuse(name, f"{path}: a model {name!r} is served from {self._paths[name]} already")
                continue
            self._paths[name] = path
            try:
                engines[name] = self._opened(name, path)
            except RuntimeFault as fault:
                self._refuse(name, str(fault))
        return engines

    def attach(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        """From now on changes go into ``site``, in the thread of ``loop``."""
        self._site, self._loop = site, loop

    def index(self) -> list[Entry]:
        """Every model that is known, loaded or not, by name."""
        models = self._site.models if self._site else {}
        names = {*models, *self._paths, *self._reasons, *(name for name, _ in self._in_folder())}
        return [
            Entry(name, models[name].bundle.version if name in models else "", self._reason(name))
            for name in sorted(names)
        ]

    def change(self, verb: Verb, name: str) -> None:
        """Raises as ``load`` and ``unload`` do."""
        (self.load if verb == "load" else self.unload)(name)

    def load(self, name: str) -> None:
        """Load ``name`` from its file, or load it anew. Raises ``ModelNotFoundError``, ``BundleError``, …"""
        with self._lock:
            self._load(name, self._path_of(name))

    def unload(self, name: str) -> None:
        """Serve ``name`` no longer; it can be loaded again. Raises ``ModelNotFoundError``."""
        with self._lock:
            site = self._attached()
            if name not in site.models:
                raise ModelNotFoundError(
                    f"there is no model {name[:99]!r} here; loaded: {', '.join(site.models) or 'none'}"
                )
            self._in_loop(lambda: site.remove(name))
            self._reasons[name] = _UNLOADED
            logs.event(logging.INFO, "unloaded", model=name)
            release()

    def reload(self) -> dict[str, str]:
        """Load everything anew: what is served, what is new in the folder; what has left it is unloaded.

        Model → "loaded", "unloaded", or why it failed; then the old one serves on.
        """
        with self._lock:
            results: dict[str, str] = {}
            site, in_folder = self._attached(), dict(self._in_folder())
            for name in [name for name, path in self._paths.items() if self._is_gone(path, in_folder)]:
                del self._paths[name]
                if name in site.models:
                    self._in_loop(lambda name=name: site.remove(name))  # type: ignore[misc]
                    results[name] = "unloaded"
                    logs.event(logging.INFO, "unloaded", model=name)
            wanted = {**in_folder, **self._paths}
            self._reasons = {name: reason for name, reason in self._reasons.items() if name in wanted}
            for name, path in wanted.items():
                try:
                    self._load(name, path)
                    results[name] = "loaded"
                except RuntimeFault as fault:
                    results[name] = str(fault)
            return results

    def _is_gone(self, path: Path, in_folder: dict[str, Path]) -> bool:
        if self._folder is None or str(path) in self.named or not self._folder.is_dir():  # not mounted, say
            return False
        return path not in in_folder.values()

    def _load(self, name: str, path: Path) -> None:
        site = self._attached()
        try:
            engine = self._opened(name, path)
        except RuntimeFault as fault:
            self._refuse(name, str(fault))
            raise
        lane = site.lane_for(name, engine)
        self._in_loop(lambda: site.add(name, engine, lane))
        self._paths[name] = path
        self._reasons.pop(name, None)
        logs.event(logging.INFO, "loaded", model=name, version=engine.bundle.version, path=path)
        release()

    def _opened(self, name: str, path: Path) -> Engine:
        """``path``, tried in a child and opened here."""
        digest = sha256(self._check(path).model)
        try_bundle(path, backend=self._backend, model_sha256=digest)
        engine = self._open_engine(path)
        if engine.bundle.name != name:
            raise BundleError(
                f"{path}: holds a model {engine.bundle.name!r}; name the file {engine.bundle.name}{SUFFIX}"
            )
        if engine.model_sha256 != digest:
            raise BundleError(f"{path}: {CHANGED}")
        engine.forget_model()
        return engine

    def _in_folder(self) -> Iterator[tuple[str, Path]]:
        """Name → path, without the files that were named one by one, whatever they are called."""
        if self._folder is not None:
            named = {Path(path).resolve() for path in self.named}
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                if is_name(path.stem) and path.resolve() not in named:
                    yield path.stem, path

    def _path_of(self, name: str) -> Path:
        known = {**dict(self._in_folder()), **self._paths}
        if name not in known:
            raise ModelNotFoundError(
                f"there is no bundle of a model {name[:99]!r} here; known: {', '.join(known) or 'none'}"
            )
        return known[name]

    def _refuse(self, name: str, reason: str) -> None:
        self._reasons[name] = reason
        logs.event(logging.ERROR, "not loaded", model=name, reason=reason)

    def _reason(self, name: str) -> str:
        is_served = self._site is not None and name in self._site.models
        return self._reasons.get(name, "" if is_served else "not loaded")

    def _attached(self) -> Site:
        if self._site is None:
            raise ModelNotFoundError("this server does not load and unload models")
        return self._site

    def _in_loop(self, change: Callable[[], None]) -> None:
        """Have the event loop's thread make ``change``, and wait for it."""
        assert self._loop is not None
        made: Future[None] = Future()

        def call() -> None:
            try:
                change()
                made.set_result(None)
            except BaseException as error:
                made.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        made.result()


def release() -> None:
    """Give what loading a model left behind back to the system; glibc keeps it otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
