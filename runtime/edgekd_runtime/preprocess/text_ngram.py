"""Hashed word and character n-grams: raw text in, ``(length,) int32`` ids out.

The feature set is fastText's (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; Bojanowski et
al. 2017 for character n-grams): n-grams are hashed into a fixed number of buckets (Weinberger et al. 2009), so there
is no vocabulary to ship. CRC-32 is the hash because it is in the standard library of every Python, runs in C and
gives the same value on every platform.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import accumulate
from typing import ClassVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import InputError, PreprocessError

KIND = "text-ngram"

_HASH_SIGN = crc32(b"#")
# Scripts written without spaces (Han, kana): there every character is a word of its own.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_CJK_RUN = f"[{_CJK}]+"
_WORD = f"[{_CJK}]|[^\\W_{_CJK}]+(?:'[^\\W_{_CJK}]+)*|[?!$€£¥%]"


@dataclass(frozen=True)
class TextNgram:
    """Turns a sentence into the ids of its hashed n-grams.

    Output layout, ``(length,) int32``: position 0 holds the number ``n`` of n-grams that follow, ``1 … n`` hold
    bucket ids in ``[1, buckets)``, the rest is 0. The student uses ``n`` to look up its length normalisation, so
    that no arithmetic on ids (which int8 cannot hold) is needed in the graph.

    When a text has more than ``length - 1`` n-grams, whole words win over word pairs, and those over characters.
    """

    media: ClassVar = "text"
    media_types: ClassVar = ("text/plain",)

    buckets: int = 16384
    length: int = 256
    word_ngrams: tuple[int, int] = (1, 2)
    char_ngrams: tuple[int, int] = (3, 4)
    max_chars: int = 4096

    def __post_init__(self) -> None:
        if not 2 <= self.buckets <= 1 << 24:
            raise PreprocessError(f"text-ngram: buckets must be between 2 and {1 << 24}, not {self.buckets}")
        if not 2 <= self.length <= 1 << 16:
            raise PreprocessError(f"text-ngram: length must be between 2 and {1 << 16}, not {self.length}")
        if not 1 <= self.max_chars <= 1 << 20:
            raise PreprocessError(f"text-ngram: max_chars must be between 1 and {1 << 20}, not {self.max_chars}")
        for name, (low, high) in (("word_ngrams", self.word_ngrams), ("char_ngrams", self.char_ngrams)):
            if not 0 <= low <= high <= 16:
                raise PreprocessError(
                    f"text-ngram: {name} must be [low, high] with 0 ≤ low ≤ high ≤ 16, not {[low, high]}"
                )

        if not self.word_ngrams[1] and not self.char_ngrams[1]:
            raise PreprocessError(
                "text-ngram: word_ngrams and char_ngrams are both empty; nothing would be left of a text"
            )

    @classmethod
    def from_dict(cls, spec: Mapping[str, object]) -> TextNgram:
        """Read the ``preprocess.json`` form. Raises ``PreprocessError`` on unknown, missing or mistyped keys."""
        known = {field.name for field in fields(cls)}
        given = {key: value for key, value in spec.items() if key not in ("kind", "version")}
        if set(given) != known:
            wrong = ", ".join(repr(key) for key in sorted(set(given) ^ known))
            raise PreprocessError(f"text-ngram: unknown or missing keys: {wrong[:200]}")
        values: dict[str, object] = {}
        for key, value in given.items():
            if key.endswith("_ngrams"):
                if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)):
                    raise PreprocessError(f"text-ngram: {key} must be two whole numbers, not {value!r}")
                values[key] = (value[0], value[1])
            elif type(value) is not int:
                raise PreprocessError(f"text-ngram: {key} must be a whole number, not {value!r}")
            else:
                values[key] = value
        return cls(**values)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """The ``preprocess.json`` form, read back by :meth:`from_dict`."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"kind": KIND, "version": 1, **fields}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        return (self.length,)

    def __call__(self, text: object) -> npt.NDArray[np.int32]:
        """``str`` → ``(length,) int32``. Raises ``InputError`` for anything that is not a non-empty text."""
        if not isinstance(text, str):
            raise InputError(f"expected a text, got {type(text).__name__}")
        if len(text) > self.max_chars:
            raise InputError(f"the text has {len(text)} characters; at most {self.max_chars} are taken")
        ids = self._ids(text, self.length - 1)
        if not ids:
            raise InputError("the text is empty or holds no letters, digits or characters to work on")
        row = np.zeros(self.length, np.int32)
        row[0] = len(ids)
        row[1 : len(ids) + 1] = ids
        return row

    def checked(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """``rows``, ``(n, length) int32`` from elsewhere. Raises ``InputError`` unless they are ids of the model's."""
        highest = rows.view(np.uint32).max(initial=0)  # what is negative is too large there
        if highest >= self.buckets or rows[:, 0].max(initial=0) >= self.length:
            raise InputError(f"ids must lie in [0, {self.buckets}), the count before them in [0, {self.length})")
        return rows

    def _ids(self, text: str, most: int) -> list[int]:
        """Of the first ``most`` n-grams: of words, then of characters, which have a ``#`` before them."""
        word, cjk_run = _patterns()
        text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")  # the apostrophe that phones type
        buckets, found = self.buckets - 1, list[int]()
        low, high = self.word_ngrams
        words = [_encoded(found) for found in word.findall(text)[: most + high]]
        for n in range(max(low, 1), high + 1):
            starts = range(min(len(words) - n + 1, most - len(found)))
            found += [1 + crc32(b" ".join(words[i : i + n])) % buckets for i in starts]
        low, high = self.char_ngrams
        if not high or len(found) >= most:
            return found
        # Not of Han and kana: there words 1-2 are characters 1-2 already, and longer ones only dilute them.
        spaced = cjk_run.sub(" ", text)
        if any(map(str.isalnum, spaced)):
            joined = f"<{' '.join(spaced.split())}>"
            data = _encoded(joined)
            ends = _ends(joined, data)
            for n in range(max(low, 1), high + 1):
                spans = zip(ends, ends[n : n + most - len(found)], strict=False)
                found += [1 + crc32(data[start:end], _HASH_SIGN) % buckets for start, end in spans]
        return found


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A word, and a run of Han and kana: compiled when the first text comes, for a server of pictures has none."""
    return re.compile(_WORD), re.compile(_CJK_RUN)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _ends(text: str, data: bytes) -> Sequence[int]:
    """Where the characters of ``text`` end in ``data``, its UTF-8, after 0."""
    if len(data) == len(text):
        return range(len(text) + 1)
    return [0, *accumulate(len(_encoded(character)) for character in text)]
