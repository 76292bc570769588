"""Teachers: what gives the soft labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekd.cache import cached_array, content_key
from edgekd.distill.embedder import SentenceEmbedder, minilm
from edgekd.distill.student import StudentOptions, build_student
from edgekd.distill.train import Split, TrainOptions, predict, train
from edgekd.errors import UsageError
from edgekd.samples import to_ids
from edgekd_runtime.preprocess import TextNgram

Advance = Callable[[str], None]
_LESSON = Path("the teacher's lesson")


@dataclass(frozen=True)
class Lesson:
    """What a teacher is trained on: ``texts`` with ``targets`` ``(n,) int32`` in ``[0, classes)``."""

    texts: tuple[str, ...]
    targets: npt.NDArray[np.int32]
    classes: int
    seed: int


@dataclass(frozen=True)
class Footprint:
    """What running the teacher costs: its weights, and the median time of one answer on this machine."""

    weights_bytes: int
    answer_ms: float


class Teacher(Protocol):
    """Learns the task from a lesson and gives logits for any texts."""

    name: str

    def describe(self) -> dict[str, Any]:
        """All that its logits depend on besides the lesson and the texts; JSON-able."""
        ...

    def compute(self, lesson: Lesson, texts: Sequence[str], advance: Advance) -> npt.NDArray[np.float32]:
        """Train on the lesson; ``(len(texts), classes) float32`` logits."""
        ...

    def footprint(self, texts: Sequence[str]) -> Footprint:
        """Measured on some ``texts``, one at a time."""
        ...


def teacher_logits(
    teacher: Teacher, lesson: Lesson, texts: Sequence[str], advance: Advance
) -> tuple[npt.NDArray[np.float32], bool]:
    """Logits for ``texts``, from the cache where the same was asked before; and whether so."""
    key = content_key(
        teacher=teacher.describe(),
        lesson=[list(lesson.texts), lesson.targets.tolist(), lesson.classes, lesson.seed],
        texts=list(texts),
    )
    return cached_array("teacher-logits", key, lambda: teacher.compute(lesson, texts, advance))


@dataclass(frozen=True)
class HeadOptions:
    """The classifier on top of frozen sentence embeddings: heads of different seeds whose logits are averaged.

    No label smoothing: it lifts the teacher by half a point on BANKING77 and costs its student more than one (Müller et
    al. 2019, "When Does Label Smoothing Help?").
    """

    hidden: int = 512
    dropout: float = 0.4
    epochs: int = 20
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    members: int = 3


def _median_ms(call: Callable[[str], object], texts: Sequence[str]) -> float:
    call(texts[0])
    taken = []
    for text in texts:
        start = time.perf_counter()
        call(text)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1e3)


class EmbeddingTeacher:
    """A frozen sentence encoder with a trained two-layer head."""

    def __init__(self, name: str, embedder: SentenceEmbedder, options: HeadOptions | None = None) -> None:
        self.name = name
        self._embedder = embedder
        self._options = options or HeadOptions()

    def describe(self) -> dict[str, Any]:
        return {"kind": "sentence-embedding", "weights": self._embedder.sha256, "head": asdict(self._options)}

    def compute(self, lesson: Lesson, texts: Sequence[str], advance: Advance) -> npt.NDArray[np.float32]:
        known, _ = self._embedder.embed(lesson.texts, advance)
        asked, _ = self._embedder.embed(texts, advance)
        total = np.zeros((len(texts), lesson.classes), np.float32)
        for member in range(self._options.members):
            total += self._train_head(known, lesson, lesson.seed + member, advance)(asked)
        return total / self._options.members

    def footprint(self, texts: Sequence[str]) -> Footprint:
        # The head's two products are lost in the encoder's time.
        return Footprint(self._embedder.weights_bytes, _median_ms(self._embedder.embed_one, texts))

    def _train_head(
        self, vectors: npt.NDArray[np.float32], lesson: Lesson, seed: int, advance: Advance
    ) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
        import keras

        options = self._options
        keras.utils.set_random_seed(seed)
        width = vectors.shape[1]
        head = keras.Sequential(
            [
                keras.Input((width,)),
                keras.layers.Rescaling(width**0.5),  # unit vectors to unit variance
                keras.layers.Dense(options.hidden, activation="gelu"),
                keras.layers.Dropout(options.dropout),
                keras.layers.Dense(lesson.classes),
            ]
        )
        steps = options.epochs * -(-len(vectors) // options.batch)
        schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
        head.compile(
            keras.optimizers.AdamW(schedule, weight_decay=options.weight_decay),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        tick = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: advance(f"head epoch {epoch + 1}"))
        head.fit(vectors, lesson.targets, batch_size=options.batch, epochs=options.epochs, verbose=0, callbacks=[tick])
        return lambda asked: head.predict(asked, batch_size=512, verbose=0)


@dataclass(frozen=True)
class KerasTeacherOptions:
    """Several wide n-gram networks of different seeds; their logits are averaged (deep ensemble)."""

    members: int = 3
    buckets: int = 65536
    width: int = 128
    length: int = 768
    char_ngrams: tuple[int, int] = (1, 4)
    dropout: float = 0.4
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 3e-3
    token_dropout: float = 0.2


class KerasTeacher:
    """A larger model trained from scratch on the same data, in any language."""

    name = "keras"

    def __init__(self, options: KerasTeacherOptions | None = None) -> None:
        self._options = options or KerasTeacherOptions()

    def describe(self) -> dict[str, Any]:
        return {"kind": "keras-ngram-ensemble", **asdict(self._options)}

    def compute(self, lesson: Lesson, texts: Sequence[str], advance: Advance) -> npt.NDArray[np.float32]:
        options = self._options
        preprocess = self._preprocess()
        known = Split(to_ids(preprocess, lesson.texts, _LESSON, cut=True), lesson.targets)
        asked = to_ids(preprocess, texts, _LESSON, cut=True)
        total = np.zeros((len(texts), lesson.classes), np.float32)
        for member in range(options.members):
            total += self._train_member(known, lesson, lesson.seed + member, advance)(asked)
        return total / options.members

    def footprint(self, texts: Sequence[str]) -> Footprint:
        # Time and size hang on the shape alone, so an untrained member stands for all.
        options = self._options
        model, preprocess = build_student(self._shape(), 2), self._preprocess()
        weights = 4 * options.buckets * options.width * options.members
        return Footprint(
            weights,
            options.members
            * _median_ms(lambda text: predict(model, to_ids(preprocess, [text], _LESSON, cut=True)), texts),
        )

    def _preprocess(self) -> TextNgram:
        options = self._options
        return TextNgram(options.buckets, options.length, char_ngrams=options.char_ngrams)

    def _shape(self) -> StudentOptions:
        options = self._options
        return StudentOptions(options.buckets, options.width, dropout=options.dropout, length=options.length)

    def _train_member(
        self, known: Split, lesson: Lesson, seed: int, advance: Advance
    ) -> Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float32]]:
        import keras

        options = self._options
        keras.utils.set_random_seed(seed)
        model = build_student(self._shape(), lesson.classes)
        schedule = TrainOptions(
            epochs=options.epochs,
            batch=options.batch,
            learning_rate=options.learning_rate,
            alpha=1.0,
            token_dropout=options.token_dropout,
            seed=seed,
        )
        train(model, known, None, schedule, advance)
        return lambda asked: predict(model, asked)


class TeacherEnsemble:
    """Several teachers at once: the mean of their log-probabilities, each from its own place in the cache."""

    def __init__(self, members: Sequence[Teacher]) -> None:
        self.name = "+".join(member.name for member in members)
        self._members = members

    def describe(self) -> dict[str, Any]:
        return {"kind": "ensemble", "members": [member.describe() for member in self._members]}

    def compute(self, lesson: Lesson, texts: Sequence[str], advance: Advance) -> npt.NDArray[np.float32]:
        parts = [_log_softmax(teacher_logits(member, lesson, texts, advance)[0]) for member in self._members]
        mean: npt.NDArray[np.float32] = np.mean(parts, axis=0, dtype=np.float32)
        return mean

    def footprint(self, texts: Sequence[str]) -> Footprint:
        parts = [member.footprint(texts) for member in self._members]
        return Footprint(sum(part.weights_bytes for part in parts), sum(part.answer_ms for part in parts))


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = logits - logits.max(1, keepdims=True)
    result: npt.NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def open_teacher(spec: str) -> Teacher | None:
    """``minilm``, ``keras``, a folder with ``model.onnx`` and ``tokenizer.json``, several joined by ``+``, or ``none``.

    Raises ``UsageError`` for anything else.
    """
    if spec == "none":
        return None
    if Path(spec).is_dir() or "+" not in spec:
        return _open_one(spec)
    return TeacherEnsemble([_open_one(part) for part in spec.split("+")])


def _open_one(spec: str) -> Teacher:
    if spec == "keras":
        return KerasTeacher()
    if spec == "minilm":
        return EmbeddingTeacher("minilm", minilm())
    folder = Path(spec)
    if not folder.is_dir():
        raise UsageError(
            f"--teacher {spec!r}: neither minilm, keras nor none, and not a folder with model.onnx and tokenizer.json"
        )
    return EmbeddingTeacher(folder.name, SentenceEmbedder(folder / "model.onnx", folder / "tokenizer.json"))
