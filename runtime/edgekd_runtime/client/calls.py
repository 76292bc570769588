"""What can be asked, without sockets: each call yields requests, is sent the responses and returns what they mean."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from edgekd_runtime.client.http1 import Request, Response
from edgekd_runtime.errors import ClientError, InputError
from edgekd_runtime.wire import tensors
from edgekd_runtime.wire.datatypes import BINARY_HEADER, BYTES, DATATYPES, pack_bytes
from edgekd_runtime.wire.tensors import Tensor

_REMEMBERED_BYTES = 2048
_MAX_TIMEOUT_S = 1e6  # sockets count milliseconds in 32 bits
_TOKEN = re.compile("[!-~]+")
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, InputError)
"""What comes of reading an answer that is not as it should be."""

_Result = TypeVar("_Result")
Call = Generator[Request, Response, _Result]
Value = npt.ArrayLike | str | bytes
"""An array with a batch axis; one text or file, or a list of these."""
Outputs = dict[str, Any]
"""Output name → array, or of BYTES a list of texts."""


@dataclass(frozen=True)
class Classification:
    """``labels``: (label, probability), best first. ``answers`` (language → text) belong to the best in scope."""

    label: str
    score: float
    in_scope: bool
    labels: tuple[tuple[str, float], ...]
    answers: Mapping[str, str]


class _Ends(NamedTuple):
    """Of a model. ``inputs``: name → datatype; ``output``: the first one's name."""

    inputs: dict[str, str]
    output: str


def _ends(metadata: dict[str, Any]) -> _Ends:
    return _Ends({one["name"]: one["datatype"] for one in metadata["inputs"]}, metadata["outputs"][0]["name"])


def checked_timeout(timeout_s: float) -> float:
    """``timeout_s``. Raises ``ClientError`` where it is none."""
    try:
        is_one = 0 < timeout_s <= _MAX_TIMEOUT_S
    except TypeError:
        is_one = False
    if not is_one:
        raise ClientError(f"timeout_s must be above 0 and at most {_MAX_TIMEOUT_S:.0f} seconds, not {timeout_s!r}")
    return timeout_s


class Calls:
    """``model``: whose answers are wanted where a call does not say; None: the only one that the server has."""

    def __init__(self, model: str | None, token: str | None) -> None:
        if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
            raise ClientError("the token must be of visible ASCII characters, without spaces and ends of lines")
        self._model = model
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._only: str | None = None  # the server's model, once asked
        self._ends: dict[str, _Ends] = {}

    def is_ok(self, path: str) -> Call[bool]:
        """Whether a GET is answered with 200; 503 is a no, all else an error."""
        response = yield Request("GET", path, self._headers)
        if response.status in (200, 503):
            return response.status == 200
        raise _error(response)

    def ready(self, model: str | None) -> Call[bool]:
        """Of the server, or of ``model``; one that is not loaded is not ready."""
        if model is None:
            return (yield from self.is_ok("/v2/health/ready"))
        try:
            return (yield from self.is_ok(f"{_base(model)}/ready"))
        except ClientError as error:
            if error.status == 404:
                return False
            raise

    def get(self, path: str) -> Call[Any]:
        """The JSON at ``path``."""
        return _json((yield Request("GET", path, self._headers)))

    def post(self, path: str, content: object = None) -> Call[Any]:
        """The JSON that answers ``content``."""
        body = [_dumped({} if content is None else content)]
        return _json((yield Request("POST", path, {**self._headers, "content-type": "application/json"}, body)))

    def server_metadata(self) -> Call[dict[str, Any]]:
        """The server's."""
        return _meant((yield from self.get("/v2")), dict)

    def index(self) -> Call[list[dict[str, Any]]]:
        """The models."""
        return _meant((yield from self.post("/v2/repository/index")), list)

    def repository(self, model: str, verb: str) -> Call[None]:
        """``load`` or ``unload``."""
        yield from self.post(f"/v2/repository/models/{_quoted(model)}/{verb}")
        self._forget()

    def metadata(self, model: str | None, version: str | None = None) -> Call[dict[str, Any]]:
        """The model's."""
        return self._again(lambda: self._described(model, version), 404)

    def infer(
        self, inputs: Mapping[str, Value], model: str | None, version: str | None, outputs: Sequence[str] | None
    ) -> Call[Outputs]:
        """Named inputs → named outputs, both as bytes."""
        return self._again(lambda: self._inferred(inputs, model, version, outputs), 404)

    def predict(self, value: Value, model: str | None) -> Call[npt.NDArray[Any]]:
        """The model's one input → its first output."""
        return self._again(lambda: self._predicted(value, model), 404, 400, None)

    def classify(
        self, raw: str | bytes | list[str] | list[bytes], model: str | None, top_k: int
    ) -> Call[Classification | list[Classification]]:
        """A text or a file, or several → labels."""
        return self._again(lambda: self._classified(raw, model, top_k), 404)

    def _again(self, call: Callable[[], Call[_Result]], *stale: int | None) -> Call[_Result]:
        """``call``, once more where it fails with such a status: what was learned before it may be so no longer."""
        has_learned = self._only is not None or bool(self._ends)
        try:
            return (yield from call())
        except ClientError as error:
            if not has_learned or error.status not in stale:
                raise
        self._forget()
        return (yield from call())

    def _forget(self) -> None:
        self._only, self._ends = None, {}

    def _name(self, model: str | None) -> Call[str]:
        """``model``, or the one that was meant from the start."""
        known = next((one for one in (model, self._model, self._only) if one is not None), None)
        if known is not None:
            return known
        index = yield from self.post("/v2/repository/index", {"ready": True})
        names = _meant(index, lambda entries: sorted({str(entry["name"]) for entry in entries}))
        if len(names) != 1:
            raise ClientError(f"the server has {len(names)} models; say which: {', '.join(names) or 'none is loaded'}")
        self._only = names[0]
        return names[0]

    def _described(self, model: str | None, version: str | None) -> Call[dict[str, Any]]:
        name = yield from self._name(model)
        return _meant((yield from self.get(_base(name, version))), dict)

    def _inferred(
        self, inputs: Mapping[str, Value], model: str | None, version: str | None, outputs: Sequence[str] | None
    ) -> Call[Outputs]:
        name = yield from self._name(model)
        head, parts = _packed(inputs, outputs)
        headers = {**self._headers, "content-type": "application/octet-stream", BINARY_HEADER: str(len(head))}
        response = yield Request("POST", f"{_base(name, version)}/infer", headers, [head, *parts])
        return _outputs(response)

    def _predicted(self, value: Value, model: str | None) -> Call[npt.NDArray[Any]]:
        name = yield from self._name(model)
        known = self._ends.get(name)
        if known is None:
            known = self._ends[name] = _meant((yield from self._described(name, None)), _ends)
        is_raw = _raw_values(value) is not None
        wanted = [one for one, datatype in known.inputs.items() if (datatype == BYTES) == is_raw]
        if len(wanted) != 1:
            takes = ", ".join(known.inputs)
            raise ClientError(f"model {name!r} has not one input for this; use infer with its inputs: {takes}")
        found = yield from self._inferred({wanted[0]: value}, name, None, [known.output])
        return _meant(found, lambda outputs: outputs[known.output])

    def _classified(
        self, raw: str | bytes | list[str] | list[bytes], model: str | None, top_k: int
    ) -> Call[Classification | list[Classification]]:
        name = yield from self._name(model)
        several: list[Any] = [*raw] if isinstance(raw, list | tuple) else [raw]
        field = _field(several)
        coded = several if field == "text" else [base64.b64encode(one).decode() for one in several]
        content = {field: coded if isinstance(raw, list | tuple) else coded[0], "top_k": top_k}
        found = yield from self.post(f"/v1/models/{_quoted(name)}:classify", content)
        return _meant(found, _classifications)


def _base(model: str, version: str | None = None) -> str:
    end = "" if version is None else f"/versions/{_quoted(version)}"
    return f"/v2/models/{_quoted(model)}{end}"


def _quoted(name: str) -> str:
    try:
        return quote(name, safe="")
    except (TypeError, UnicodeEncodeError) as error:
        raise ClientError(f"the name of a model or a version must be a text, not {name!r}") from error


def _dumped(content: object) -> bytes:
    try:
        return json.dumps(content).encode()
    except (TypeError, ValueError) as error:
        raise ClientError(f"what was given cannot be sent: {error}") from error


@lru_cache(maxsize=64)
def _head(inputs: tuple[Tensor, ...], outputs: tuple[str, ...] | None) -> bytes:
    """The JSON of a request, which mostly is that of the one before."""
    described = [
        {"name": one.name, "datatype": one.datatype, "shape": one.shape, "parameters": {"binary_data_size": one.size}}
        for one in inputs
    ]
    content: dict[str, Any] = {"inputs": described, "parameters": {"binary_data_output": True}}
    if outputs is not None:
        content["outputs"] = [{"name": one} for one in outputs]
    return _dumped(content)


def _packed(inputs: Mapping[str, Value], outputs: Sequence[str] | None) -> tuple[bytes, list[bytes | memoryview]]:
    """The JSON of a request, and the bytes behind it."""
    if not isinstance(inputs, Mapping):
        raise ClientError(f"infer takes inputs by their names, as in {{'x': array}}, not {type(inputs).__name__}")
    described, parts = [], []
    for key, value in inputs.items():
        tensor, part = _input(key, value)
        described.append(tensor)
        parts.append(part)
    try:
        return _head(tuple(described), None if outputs is None else tuple(outputs)), parts
    except TypeError as error:
        raise ClientError(f"outputs must be a list of names, not {outputs!r}") from error


def _input(name: str, value: Value) -> tuple[Tensor, bytes | memoryview]:
    """What the JSON says of an input, and its bytes."""
    values = _raw_values(value)
    if values is not None:
        packed = pack_bytes([_utf8(name, one) for one in values])
        return Tensor(name, BYTES, (len(values),), None, len(packed)), packed
    try:
        array: npt.NDArray[Any] = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ClientError(f"input {name!r} is no array: {error}") from error
    if array.dtype == np.float64:  # numpy's default; models are of float32
        array = array.astype(np.float32)
    datatype = DATATYPES.get(array.dtype.newbyteorder("="))
    if datatype is None:
        known = ", ".join(DATATYPES.values())
        raise ClientError(f"input {name!r}: arrays of {array.dtype} cannot be sent; take {known}, or a list of str")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    part = array.data.cast("B") if array.size else b""
    return Tensor(name, datatype, array.shape, None, array.nbytes), part


def _utf8(name: str, one: object) -> bytes:
    if isinstance(one, bytes):
        return one
    if not isinstance(one, str):
        raise ClientError(f"input {name!r}: texts are str and files are bytes, not {type(one).__name__}")
    try:
        return one.encode()
    except UnicodeEncodeError as error:
        raise ClientError(f"input {name!r}: the text {one[:40]!r} is no Unicode: {error.reason}") from error


def _raw_values(value: Value) -> list[str | bytes] | None:
    """Texts or files; None where it is an array."""
    if isinstance(value, str | bytes):
        return [value]
    if isinstance(value, list | tuple) and value and isinstance(value[0], str | bytes):
        return list(value)
    return None


def _outputs(response: Response) -> Outputs:
    if response.status != 200:
        raise _error(response)
    try:
        size = int(response.headers.get(BINARY_HEADER, len(response.body)))
        head, rest = response.body[:size], memoryview(response.body)[size:]
        found: Outputs = {}
        for tensor in _remembered(head) if size <= _REMEMBERED_BYTES else _tensors(head):
            part, rest = rest[: tensor.size], rest[tensor.size :]
            if tensor.datatype == BYTES:
                values = tensors.raw_values(tensor, part)
                found[tensor.name] = [one.decode() if isinstance(one, bytes) else one for one in values]
            else:
                found[tensor.name] = tensors.array(tensor, part)
        return found
    except _UNREADABLE as error:
        raise ClientError(f"the server's answer cannot be read: {error}", response.status) from error


def _tensors(head: bytes) -> tuple[Tensor, ...]:
    return tuple(map(tensors.parse, json.loads(head)["outputs"]))


_remembered = lru_cache(maxsize=64)(_tensors)


def _json(response: Response) -> Any:
    if response.status != 200:
        raise _error(response)
    try:
        return json.loads(response.body) if response.body else None
    except ValueError as error:
        raise ClientError(f"the server's answer is no JSON: {error}", response.status) from error


def _error(response: Response) -> ClientError:
    try:
        message = str(json.loads(response.body)["error"])
    except (ValueError, KeyError, TypeError):
        message = response.body[:200].decode("utf-8", "replace").strip() or "no reason given"
    return ClientError(f"{response.status}: {message}", response.status)


def _meant(found: Any, meaning: Callable[[Any], _Result]) -> _Result:
    try:
        return meaning(found)
    except _UNREADABLE as error:
        raise ClientError(f"the server's answer cannot be read: {error!r}", 200) from error


def _classifications(found: Any) -> Classification | list[Classification]:
    return [_classification(one) for one in found["results"]] if "results" in found else _classification(found)


def _classification(found: dict[str, Any]) -> Classification:
    labels = tuple((one["label"], one["score"]) for one in found["labels"])
    return Classification(found["label"], found["score"], found["in_scope"], labels, found.get("answers", {}))


def _field(several: list[Any]) -> str:
    """The raw input that takes these texts, or these files."""
    if all(isinstance(one, str) for one in several):
        return "text"
    if all(isinstance(one, bytes) for one in several):
        return _kind_of(several[0])
    found = ", ".join(sorted({type(one).__name__ for one in several}))
    raise ClientError(f"classify takes a str (a text), bytes (a file) or a list of either, not {found}")


def _kind_of(file: bytes) -> str:
    """The raw input that takes it, by its first bytes."""
    if file.startswith(b"RIFF") and file[8:12] == b"WAVE":
        return "audio"
    if file.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM")) or file[8:12] == b"WEBP":
        return "image"
    raise ClientError("the bytes are no WAV, JPEG, PNG, WebP or BMP file; texts are sent as str")
