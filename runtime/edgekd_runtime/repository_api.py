"""The verbs of the model repository over HTTP, as OIP's extension has them."""

from __future__ import annotations

from typing import Any

from edgekd_runtime.errors import InputError, ModelNotFoundError
from edgekd_runtime.reply import Body, Headers, Post, Reply, json_reply
from edgekd_runtime.repository import Entry, Repository, Verb
from edgekd_runtime.routes import AnyRoute, NameRoute, Route, Site
from edgekd_runtime.wire import jsonbody

# What clients of Triton send along and what says nothing here: no model depends on another.
_IGNORED_PARAMETERS = {"unload_dependents"}


def _repository(site: Site) -> Repository:
    if site.repository is None:
        raise ModelNotFoundError("this server does not load and unload models")
    return site.repository


def _index(site: Site) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        request = _request(body, {"ready"})
        only_ready = request.get("ready", False)
        if not isinstance(only_ready, bool):
            raise InputError("'ready' must be true or false")
        entries = _repository(site).index()
        return json_reply([_described(entry) for entry in entries if entry.is_ready or not only_ready])

    return answer


def _described(entry: Entry) -> dict[str, str]:
    described = {"name": entry.name, "state": "READY" if entry.is_ready else "UNAVAILABLE", "reason": entry.reason}
    return {**described, "version": entry.version} if entry.is_ready else described


def _load(site: Site, name: str) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        _parameters(body)
        _change(site, "load", name)
        return json_reply({"name": name, "state": "READY"})

    return answer


def _unload(site: Site, name: str) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        _parameters(body)
        _change(site, "unload", name)
        return json_reply({"name": name, "state": "UNAVAILABLE"})

    return answer


def _change(site: Site, verb: Verb, name: str) -> None:
    repository = _repository(site)
    if site.siblings is not None:
        site.siblings.change(verb, name)
    else:
        repository.change(verb, name)


def _parameters(body: Body) -> None:
    parameters = _request(body, {"parameters"}).get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError("'parameters' must be an object")
    if unknown := parameters.keys() - _IGNORED_PARAMETERS:
        raise InputError(f"parameter {sorted(unknown)[0][:99]!r} is not taken; a bundle holds all that a model needs")


def _request(body: Body, fields: set[str]) -> dict[str, Any]:
    request = jsonbody.parse(body) if bytes(body).strip() else {}
    if unknown := request.keys() - fields:
        raise InputError(f"unknown field {sorted(unknown)[0][:99]!r}; the fields are: {', '.join(sorted(fields))}")
    return request


_NAMED = "/v2/repository/models/{name}/"

ROUTES: tuple[AnyRoute, ...] = (
    Route("POST", "/v2/repository/index", "Models that there are, loaded or not", _index, "IndexRequest", "Index"),
    NameRoute("POST", _NAMED + "load", "Load a model, or load it anew", _load, "RepositoryRequest", "Entry"),
    NameRoute("POST", _NAMED + "unload", "Serve a model no longer", _unload, "RepositoryRequest", "Entry"),
)
