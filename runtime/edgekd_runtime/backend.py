"""Interpreters behind one small interface: LiteRT where it has wheels, ``tflite-runtime`` where only that has.

LiteRT's ``CompiledModel`` is not among them, because it was never faster (x86-64, one thread, same outputs). Of version
2.3: ResNet8 int8 41 to 38.5 µs, a text student int8 6.5 to 4.3 µs, EfficientNet-Lite0 int8 2.15 to 2.13 ms. Of 2.1,
whose Python class takes no number of threads, 2.3 to 9 times slower.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import BackendError, InputError

# (module, distribution), best first. tflite-runtime 2.14 runs int8 without XNNPACK and is 20-30 times slower.
_INTERPRETERS = {
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime"),
}
BACKENDS = tuple(_INTERPRETERS)
_MAP_FROM_BYTES = 1 << 20
_KEEP_STATE = (
    *("UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "LSTM", "RNN"),
    *("BIDIRECTIONAL_SEQUENCE_RNN", "SVDF", "VAR_HANDLE"),
)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ``real = scale * (stored - zero_point)``; ``scale`` is 0 where it is not quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0

    def quantize(self, real: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """``float32`` → the stored integer dtype, rounded to nearest and clipped; unchanged if not quantised.

        Raises ``InputError`` for NaN and infinity.
        """
        if not self.scale:
            return real.astype(self.dtype, copy=False)
        # Between these nothing is NaN, overflows or must be clipped: two passes that mostly save four.
        if self._lowest <= np.minimum.reduce(real, None) and np.maximum.reduce(real, None) <= self._highest:
            return self._steps(real).astype(self.dtype)
        if not np.isfinite(real).all():
            raise InputError(f"input {self.name!r} holds NaN or infinity")
        with np.errstate(over="ignore"):  # infinity is clipped like everything else
            steps = self._steps(real)
        limits = np.iinfo(self.dtype)
        return np.clip(steps, limits.min, limits.max, out=steps).astype(self.dtype)

    def _steps(self, real: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        steps = real / self.scale
        np.rint(steps, out=steps)
        steps += self.zero_point
        return steps

    @cached_property
    def _lowest(self) -> float:
        return (int(np.iinfo(self.dtype).min) - self.zero_point) * self.scale

    @cached_property
    def _highest(self) -> float:
        return (int(np.iinfo(self.dtype).max) - self.zero_point) * self.scale

    def dequantize(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The stored dtype → ``float32``."""
        if self.scale and stored.dtype == self.dtype and stored.itemsize == 1:
            return self._reals.take(stored)  # one pass in place of three
        return self._real(stored)

    def _real(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        real = stored.astype(np.float32)
        if self.scale:
            real -= self.zero_point
            real *= self.scale
        return real

    @cached_property
    def _reals(self) -> npt.NDArray[np.float32]:
        """Of all 256 values of one byte, in the order in which they are indices: negative ones count from the end."""
        return self._real(np.arange(256).astype(np.uint8).view(self.dtype))


class Backend(Protocol):
    """An interpreter with a model in it. Not safe to share between threads; the engine sees to that."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegated_ops: int
    """How many graph nodes XNNPACK took over; 0 means that the slow reference kernels run."""
    total_ops: int

    def invoke(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run once. Arrays in the order, shapes and dtypes of ``inputs``; gives those of ``outputs``, as stored."""
        ...


class ModelFile:
    """A flatbuffer as interpreters can take it: from 1 MiB on mapped from a file, which the kernel can drop and read
    again, where bytes would have to stay in memory. The file has no name, so nobody can alter it or must remove it.

    ``path`` is None where the model is small or no file can be written; then ``content`` is what is used. It need not
    outlive the opening of the interpreters: a mapping stays.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.path: str | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ModelFile:
        if len(self.content) >= _MAP_FROM_BYTES and Path("/proc/self/fd").is_dir():
            with contextlib.suppress(OSError):  # no place to write: then from memory
                self._file = tempfile.TemporaryFile(dir=_disk())
                self._file.write(self.content)
                self._file.flush()
                self.path = f"/proc/self/fd/{self._file.fileno()}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def options(self) -> dict[str, Any]:
        """Arguments for ``Interpreter``."""
        return {"model_content": self.content} if self.path is None else {"model_path": self.path}


def _disk() -> str | None:
    """``/var/tmp`` is on a disk, while ``/tmp`` often is memory."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None


class InterpreterBackend:
    """The ``Interpreter`` class, which LiteRT and tflite-runtime share."""

    def __init__(
        self, model: ModelFile, inputs: dict[str, str], outputs: dict[str, str], *, threads: int, backend: str
    ) -> None:
        self.name, self.version = installed(backend)
        interpreter_class = importlib.import_module(_INTERPRETERS[backend][0]).Interpreter
        try:
            with _quiet_stderr():
                self._interpreter = interpreter_class(**model.options(), num_threads=threads)
                self._interpreter.allocate_tensors()
            taken, given = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            ops = self._ops()
        except (RuntimeError, ValueError) as error:  # a name that is not UTF-8 is among the latter
            raise BackendError(f"{backend} {self.version} refuses the model: {_one_line(error)}") from error
        self._input_index, self.inputs = _bind(taken, inputs, "input")
        self._output_index, self.outputs = _bind(given, outputs, "output")
        self.delegated_ops, self.total_ops = _count_ops(ops)
        self._keeps_state = any(op["op_name"] in _KEEP_STATE for op in ops)

    def invoke(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        interpreter = self._interpreter
        for index, array in zip(self._input_index, arrays, strict=True):
            interpreter.set_tensor(index, array)
        if self._keeps_state:
            interpreter.reset_all_variables()  # a request has nothing to do with the one before
        try:
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._output_index]
        except (RuntimeError, ValueError) as error:  # the latter of an output that has no size yet
            raise InputError(f"the model cannot run on this input: {_one_line(error)}") from error

    def _ops(self) -> Sequence[dict[str, Any]]:
        """The execution plan, empty where the interpreter does not tell it."""
        describe = getattr(self._interpreter, "_get_ops_details", None)
        return describe() if describe is not None else ()


def _count_ops(ops: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Nodes that XNNPACK took, and all of the model's nodes, from the interpreter's execution plan."""
    delegates = [op for op in ops if op["op_name"] == "DELEGATE"]
    model_ops = [op for op in ops if op["op_name"] != "DELEGATE"]
    return len(_replaced_by(delegates, model_ops)), len(model_ops)


def _replaced_by(delegates: Sequence[dict[str, Any]], model_ops: Sequence[dict[str, Any]]) -> set[int]:
    """Indices of the ops that the delegates replace: all on the way from a delegate's outputs back to its inputs."""
    producer = {int(tensor): op for op in model_ops for tensor in op["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        border = {int(tensor) for tensor in delegate["inputs"]}
        queue = [int(tensor) for tensor in delegate["outputs"]]
        while queue:
            tensor = queue.pop()
            op = producer.get(tensor)
            if op is None or tensor in border or op["index"] in taken:
                continue
            taken.add(op["index"])
            queue.extend(int(source) for source in op["inputs"])
    return taken


def _bind(
    details: Sequence[dict[str, Any]], names: dict[str, str], what: str
) -> tuple[list[int], tuple[TensorSpec, ...]]:
    by_tensor = {detail["name"]: detail for detail in details}
    indices, specs = [], []
    for name, tensor in names.items():
        if tensor not in by_tensor:
            raise BackendError(f"the model has no {what} tensor {tensor!r}; the bundle's manifest does not fit it")
        detail = by_tensor[tensor]
        scale, zero_point = detail["quantization"]
        indices.append(int(detail["index"]))
        shape = tuple(int(size) for size in detail["shape"])
        specs.append(TensorSpec(name, shape, np.dtype(detail["dtype"]), float(scale), int(zero_point)))
    if len(details) != len(names) or len(set(indices)) != len(names):
        raise BackendError(f"the model has {len(details)} {what}s; the bundle's manifest names {len(names)}")
    return indices, tuple(specs)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop the interpreter's C++ chatter ("Created … XNNPACK delegate"); its errors come as exceptions.

    Only in the main thread: standard error belongs to all of them, and a server that loads a model aside still logs.
    """
    saved = None
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(OSError):  # closed
            saved = os.dup(2)
    if saved is None:
        yield
        return
    try:
        with Path(os.devnull).open("wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def default_threads() -> int:
    """Threads XNNPACK is given when nobody says: the cores this process may use, at most 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores))


def open_model(
    model: bytes | ModelFile,
    inputs: dict[str, str],
    outputs: dict[str, str],
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> Backend:
    """Load a ``.tflite``.

    Args:
        model: the flatbuffer; as a ``ModelFile`` where several interpreters are to share it.
        inputs, outputs: public name → tensor name, in the order in which arrays will be passed.
        threads: XNNPACK threads, default :func:`default_threads`.
        backend: ``"litert"``, ``"tflite-runtime"``, or ``"auto"`` for the first that is installed.

    Raises ``BackendError`` when no interpreter is installed or the model is refused.
    """
    name, _ = installed(backend)
    source = ModelFile(model) if isinstance(model, bytes) else model
    return InterpreterBackend(source, inputs, outputs, threads=threads or default_threads(), backend=name)


def installed(backend: str = "auto") -> tuple[str, str]:
    """Name and version of ``backend``, or of the first that there is. Raises ``BackendError`` where it is not."""
    for name in _INTERPRETERS if backend == "auto" else (backend,):
        module, distribution = _INTERPRETERS[name]
        try:
            importlib.import_module(module)
            return name, str(importlib.import_module(module.split(".")[0]).__version__)
        except ImportError as error:
            if backend != "auto":
                raise BackendError(f"{name} is not installed here ({error}); pip install {distribution}") from error
    raise BackendError("no interpreter is installed: pip install ai-edge-litert (or tflite-runtime on 32-bit ARM)")
