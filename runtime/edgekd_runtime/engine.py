"""One loaded model: raw input or tensors in, tensors or labels out. Knows nothing of transports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_runtime.backend import Backend, ModelFile, TensorSpec, default_threads, open_model
from edgekd_runtime.bundle import Bundle, Golden
from edgekd_runtime.errors import BundleError, GoldenError, InputError, MissingExtraError
from edgekd_runtime.pool import Pool
from edgekd_runtime.preprocess import TextNgram, fits
from edgekd_runtime.ranking import Classification, Ranker

MAX_BATCH = 64

# Stored integers may differ by this many steps from the recorded ones. Measured on five text bundles: LiteRT against
# tflite-runtime 1 step at most, LiteRT on arm64 against x86-64 none.
_GOLDEN_STEPS_SAME = 1
_GOLDEN_STEPS_OTHER = 3
_GOLDEN_RTOL = 1e-3
# Of inputs made anew from files: decoders of other versions may be off by a level here and there.
_GOLDEN_MEAN_STEPS = 1.0

Arrays = dict[str, npt.NDArray[Any]]
Conversion = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Raises ``InputError`` for values that do not fit."""


class Engine:
    """A bundle in one or several interpreters. May be called from any thread."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None, workers: int = 1, backend: str = "auto") -> None:
        """Load the model and check it against the bundle's golden answers.

        Args:
            bundle: from ``load_bundle``.
            threads: XNNPACK threads of each interpreter. [default: the cores, at most 4, shared by the workers]
            workers: interpreters; so many calls run at the same time, and more wait.
            backend: as ``open_model`` takes it.

        Raises ``BackendError`` if it does not load, ``GoldenError`` if it answers otherwise than when it was packed.
        """
        self.bundle = bundle
        self.threads = threads or max(1, default_threads() // workers)
        self.model_sha256 = hashlib.sha256(bundle.model).hexdigest()
        self.model_bytes = len(bundle.model)
        self.pool = Pool(self._interpreters(workers, backend))
        self._check_shapes()
        self.inputs, self.outputs = (
            tuple(self._as_seen(spec) for spec in specs) for specs in (self.backend.inputs, self.backend.outputs)
        )
        self.takes = bundle.preprocess.media if bundle.preprocess else None
        """The kind of raw input that the model has a preprocessing for: text, image, audio, or none."""
        self.ranker = Ranker(bundle, self.backend.outputs[0])
        self.to_reals = {spec.name: self._to_reals(spec) for spec in self.backend.outputs}
        """Output by name: from stored values to what callers see, ``float32``."""
        self._prepare = self._preparation()
        if bundle.golden is not None:
            self._check_golden(bundle.golden)

    def _interpreters(self, workers: int, backend: str) -> list[Backend]:
        bundle = self.bundle
        with ModelFile(bundle.model) as source:
            opened = [
                open_model(source, bundle.inputs, bundle.outputs, threads=self.threads, backend=backend)
                for _ in range(workers)
            ]
            self._is_mapped = source.path is not None
        self.backend = opened[0]
        """For what all have in common: name, version, specs, how many ops XNNPACK took."""
        return opened

    def forget_model(self) -> None:
        """Let go of the flatbuffer's bytes where the interpreters map them from a file."""
        if self._is_mapped:
            self.bundle = replace(self.bundle, model=b"")

    def preprocess(self, raw: object) -> list[npt.NDArray[Any]]:
        """A raw text, or a file's bytes → the model's input as stored, with the batch axis. Raises ``InputError``."""
        if self._prepare is None:
            raise InputError(f"model {self.bundle.name!r} does not take raw text; send its input tensors instead")
        return [self._prepare(raw)[None]]

    def invoke(self, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run the interpreter on stored values, batch 1."""
        return self.pool.invoke(arrays)

    def infer(self, inputs: Arrays) -> Arrays:
        """Run on named tensors with a batch axis of 1 … ``MAX_BATCH``.

        ``float32`` is quantised where the model wants integers, and ``int8``, stored values on the grid that the bundle
        has, dequantised where it wants reals; outputs come back as ``float32``, dequantised.
        Raises ``InputError`` naming the tensor that does not fit.
        """
        return self.outputs_of(self.store(inputs))

    def store(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """Named tensors → the model's inputs in order, as they are stored. Raises ``InputError`` as ``infer`` does."""
        columns = [self._stored(spec, inputs) for spec in self.inputs]
        if len(inputs) > len(columns):
            wanted = [spec.name for spec in self.inputs]
            extra = sorted(set(inputs) - {*wanted})[0]
            raise InputError(f"there is no input {extra!r}; the model's inputs are: {', '.join(wanted)}")
        if len(columns) > 1 and len({len(column) for column in columns}) > 1:
            raise InputError("the inputs have different batch sizes")
        return columns

    def golden_inputs(self) -> Arrays:
        """Of the bundle's golden samples, as a caller would send them; empty where it has none."""
        golden = self.bundle.golden
        return {name: self._to_source(name, array) for name, array in golden.inputs.items()} if golden else {}

    def conversion(self, spec: TensorSpec, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Conversion:
        """How arrays of this shape and dtype become what the model's input ``spec`` stores.

        Raises ``InputError`` naming the tensor where none of them fits.
        """
        if shape[1:] != spec.shape[1:] or len(shape) != len(spec.shape):
            raise InputError(f"input {spec.name!r} must have shape {_shape(spec)}, not {list(shape)}")
        if not 1 <= shape[0] <= MAX_BATCH:
            raise InputError(f"input {spec.name!r} has a batch of {shape[0]}; 1 to {MAX_BATCH} are taken")
        convert = self._values(spec, dtype)
        axes = self.bundle.layouts.get(spec.name)
        return (lambda array: np.ascontiguousarray(convert(array).transpose(axes))) if axes else convert

    def outputs_of(self, columns: list[npt.NDArray[Any]]) -> Arrays:
        """Stored inputs in order, any number of rows → all outputs by name, dequantised. Raises ``InputError``."""
        return self.reals(self.stored_outputs(columns))

    def stored_outputs(self, columns: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Stored inputs in order, any number of rows → all outputs in order, as stored."""
        return self.pool.invoke(columns) if len(columns[0]) == 1 else self._row_by_row(columns)

    def reals(self, stored: list[npt.NDArray[Any]]) -> Arrays:
        """All outputs in order, as stored → by name, dequantised. Raises ``InputError``."""
        return {name: reals(array) for (name, reals), array in zip(self.to_reals.items(), stored, strict=True)}

    def _row_by_row(self, columns: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        rows = [self.invoke([column[i : i + 1] for column in columns]) for i in range(len(columns[0]))]
        return [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]

    def classify(self, raw: object, top_k: int = 3) -> Classification:
        """A raw text, or the bytes of a file → its best ``top_k`` labels. Raises ``InputError``."""
        stored = self.invoke(self.preprocess(raw))[0]
        spec = self.outputs[0]
        top = self.ranker.top(stored[0].tolist(), spec.scale or 1.0, spec.zero_point, top_k)
        return self.ranker.classified(top)

    def rank(self, scores: npt.NDArray[np.float32], top_k: int) -> Classification:
        """``(labels,) float32``, as the bundle's ``scores`` says → the ``top_k`` best labels with probabilities."""
        return self.ranker.classified(self.ranker.top(scores.tolist(), top_k=top_k))

    def _stored(self, spec: TensorSpec, inputs: Arrays) -> npt.NDArray[Any]:
        if spec.name not in inputs:
            raise InputError(f"input {spec.name!r} is missing")
        array = inputs[spec.name]
        return self.conversion(spec, array.shape, array.dtype)(array)

    def _values(self, spec: TensorSpec, dtype: np.dtype[Any]) -> Conversion:
        """:meth:`conversion` but for the layout."""
        if dtype == spec.dtype:
            if dtype.kind == "f":
                return partial(_finite, f"input {spec.name!r} holds NaN or infinity")
            preprocess = self.bundle.preprocess
            return preprocess.checked if isinstance(preprocess, TextNgram) else _unchanged
        if dtype == np.float32 and spec.scale:
            return spec.quantize
        if dtype == np.int8 and spec.dtype == np.float32 and spec.name in self.bundle.grids:
            scale, zero_point = self.bundle.grids[spec.name]
            return replace(spec, dtype=dtype, scale=scale, zero_point=zero_point).dequantize
        raise InputError(f"input {spec.name!r} must be {spec.dtype}, not {dtype}")

    def _to_reals(self, spec: TensorSpec) -> Conversion:
        """How what the model's output ``spec`` stores becomes what callers see."""
        refusal = f"the model's output {spec.name!r} holds NaN or infinity for this input"

        def finite(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            return _finite(refusal, spec.dequantize(stored))

        convert = spec.dequantize if spec.scale else finite
        in_layout = spec.name in self.bundle.layouts
        return (lambda stored: self._to_source(spec.name, convert(stored))) if in_layout else convert

    def _check_shapes(self) -> None:
        """The bundle's own parts must fit each other before anybody is served."""
        inputs, outputs = self.backend.inputs, self.backend.outputs
        for spec in (*inputs, *outputs):
            if not spec.shape or spec.shape[0] != 1:
                raise BundleError(
                    f"tensor {spec.name!r} has shape {list(spec.shape)}; the first axis must be a batch of 1"
                )
            if spec.dtype.kind not in "biuf":
                raise BundleError(f"tensor {spec.name!r} is of {spec.dtype}; only real numbers and truths are served")
            if (axes := self.bundle.layouts.get(spec.name)) and len(axes) != len(spec.shape):
                raise BundleError(f"tensor {spec.name!r} has shape {list(spec.shape)}, its layout {len(axes)} axes")
        preprocess, labels = self.bundle.preprocess, self.bundle.labels
        if preprocess and (len(inputs) != 1 or not fits(preprocess, inputs[0].shape)):
            raise BundleError(f"preprocess.json makes {(1, *preprocess.shape)}, which is not what the model takes")
        if labels and outputs[0].shape != (1, len(labels)):
            raise BundleError(f"labels.txt has {len(labels)} labels, the model's output is {outputs[0].shape}")

    def _as_seen(self, spec: TensorSpec) -> TensorSpec:
        """With the shape that callers see, which is the source's."""
        axes = self.bundle.layouts.get(spec.name)
        return replace(spec, shape=tuple(spec.shape[axes.index(i)] for i in range(len(axes)))) if axes else spec

    def _to_source(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        axes = self.bundle.layouts.get(name)
        return np.ascontiguousarray(array.transpose(np.argsort(axes))) if axes else array

    def _preparation(self) -> Callable[[object], npt.NDArray[Any]] | None:
        """Raw input → the one input tensor as stored, without the batch axis."""
        preprocess = self.bundle.preprocess
        if preprocess is None or isinstance(preprocess, TextNgram):
            return preprocess
        spec = self.backend.inputs[0]
        prepared = preprocess.prepared(spec.quantize)
        return lambda raw: prepared(raw).reshape(spec.shape[1:])

    def _check_golden(self, golden: Golden) -> None:
        where = f"bundle {self.bundle.name!r} on {self.backend.name} {self.backend.version}"
        if not len(golden):
            raise BundleError(f"{where}: golden.bin holds no samples")
        arrays = [(spec, golden.inputs.get(spec.name)) for spec in self.backend.inputs]
        arrays += [(spec, golden.outputs.get(spec.name)) for spec in self.backend.outputs]
        for spec, array in arrays:
            if array is None or array.shape != (len(golden), *spec.shape[1:]) or array.dtype != spec.dtype:
                raise BundleError(f"{where}: golden.bin does not fit the model's tensor {spec.name!r}")
        if isinstance(self.bundle.preprocess, TextNgram) and golden.texts:
            try:
                made = np.stack([self.bundle.preprocess(text) for text in golden.texts])
            except InputError as error:
                raise GoldenError(f"{where}: a golden text is refused: {error}") from error
            if not np.array_equal(made, golden.inputs[self.inputs[0].name]):
                raise GoldenError(f"{where}: preprocessing gives other ids than when it was packed; convert it again")
        elif self.bundle.preprocess and golden.raw:
            self._check_golden_files(golden, where)
        same = golden.backend == self.backend.name
        steps = _GOLDEN_STEPS_SAME if same else _GOLDEN_STEPS_OTHER
        for i in range(len(golden)):
            try:
                got = self.invoke([golden.inputs[spec.name][i : i + 1] for spec in self.inputs])
            except InputError as error:
                raise GoldenError(f"{where}: golden sample {i}: {error}") from error
            for spec, array in zip(self.outputs, got, strict=True):
                if not _close(array[0], golden.outputs[spec.name][i], steps):
                    raise GoldenError(
                        f"{where}: golden sample {i} gives another {spec.name!r} than when it was packed "
                        f"(recorded on {golden.backend}); this interpreter computes wrongly or the model was altered"
                    )

    def _check_golden_files(self, golden: Golden, where: str) -> None:
        """Files that are packed with the samples made of them must give these again, as far as decoders agree."""
        spec = self.inputs[0]
        if len(golden.raw) != len(golden):
            raise BundleError(f"{where}: golden_raw.bin does not fit golden.bin")
        for i, raw in enumerate(golden.raw):
            try:
                steps = _mean_steps(spec, self.preprocess(raw)[0][0], golden.inputs[spec.name][i]) if raw else 0
            except MissingExtraError:
                return  # tensors can be served all the same; a file that is sent will be told what is missing
            except InputError as error:
                raise GoldenError(f"{where}: golden file {i} is refused: {error}") from error
            if steps > _GOLDEN_MEAN_STEPS:
                raise GoldenError(
                    f"{where}: preprocessing makes another input of golden file {i} than when it was packed"
                )


def _finite(refusal: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.isfinite(array).all():
        raise InputError(refusal)
    return array


def _unchanged(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array


def _mean_steps(spec: TensorSpec, made: npt.NDArray[Any], recorded: npt.NDArray[Any]) -> float:
    """Mean distance in steps of the stored integers; of floats, in 255ths of their range."""
    distance = np.abs(made.astype(np.float64) - recorded)
    step = 1.0 if spec.scale else max(float(np.ptp(recorded)), 1e-12) / 255
    return float(distance.mean()) / step


def _close(got: npt.NDArray[Any], recorded: npt.NDArray[Any], steps: int) -> bool:
    if got.shape != recorded.shape or got.dtype != recorded.dtype:
        return False
    if np.issubdtype(got.dtype, np.integer):
        return bool(np.abs(got.astype(np.int64) - recorded.astype(np.int64)).max(initial=0) <= steps)
    return bool(
        np.allclose(got, recorded, rtol=_GOLDEN_RTOL, atol=_GOLDEN_RTOL * float(np.abs(recorded).max(initial=0)))
    )


def _shape(spec: TensorSpec) -> list[int]:
    return [-1, *spec.shape[1:]]
