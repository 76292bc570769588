"""Text preprocessing: layout, meaning and, since trained tables depend on it, that its hash never changes."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekd_runtime.errors import InputError, PreprocessError
from edgekd_runtime.preprocess import TextNgram, load, text_ngram

SMALL = TextNgram(buckets=16384, length=64)
WORDS_ONLY = TextNgram(buckets=1 << 20, length=64, word_ngrams=(1, 2), char_ngrams=(0, 0))
CHARS_ONLY = TextNgram(buckets=1 << 20, length=256, word_ngrams=(0, 0), char_ngrams=(3, 4))


def ids(preprocess: TextNgram, text: str) -> list[int]:
    row = preprocess(text)
    return row[1 : row[0] + 1].tolist()


def bucket(gram: str, buckets: int = 1 << 20) -> int:
    return 1 + crc32(gram.encode()) % (buckets - 1)


GOLDEN = {
    "Where's my order?": (
        "11471 12264 10318 5194 1575 11453 14149 15364 8046 6345 3310 11868 15690 3156 86 3445 16199 5676 7656 3177 "
        "15507 7739 15129 2193 8053 2885 15054 3219 1158 14973 4197 6002 4017 12615 13736 4256 9158 1920 757 14366"
    ),
    "我的订单在哪里": "7815 1279 3935 796 15327 2200 6851 4852 2781 3566 8596 4306 7683",
    "Café №5": "9588 13294 2109 5630 14803 7297 10912 9140 7116 8230 6458 11913 7536 9739 2196 12052 13393 8075",
}


@pytest.mark.parametrize("text", GOLDEN)
def test_the_hash_never_changes(text: str) -> None:
    assert ids(SMALL, text) == [int(one) for one in GOLDEN[text].split()]


def test_layout() -> None:
    row = SMALL("hello")
    assert (row.shape, row.dtype) == ((64,), np.int32)
    grams = ["hello", "#<he", "#hel", "#ell", "#llo", "#lo>", "#<hel", "#hell", "#ello", "#llo>"]
    assert row.tolist() == [10, *(bucket(gram, 16384) for gram in grams), *[0] * 53]


def test_words_then_pairs_then_characters() -> None:
    grams = ["to", "be", "to be", "#<to", "#to ", "#o b", "# be", "#be>", "#<to ", "#to b", "#o be", "# be>"]
    expected = [bucket(gram, 16384) for gram in grams]
    assert ids(SMALL, "To be") == expected
    for length in range(2, len(expected) + 2):
        assert TextNgram(length=length)("To be").tolist() == [length - 1, *expected[: length - 1]]


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("HELLO Café", "hello cafe\u0301"),
        ("ＡＢＣ１２", "abc12"),
        ("ﬁne", "fine"),
        ("  a \t b\n", "a b"),
        ("a,b.", "a b"),
        ("退款？", "退款?"),
    ],
)
def test_spelling_that_means_the_same_is_the_same_words(one: str, same: str) -> None:
    assert ids(WORDS_ONLY, one) == ids(WORDS_ONLY, same)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop", ["don't", "stop"]),
        ("it's £5!", ["it's", "£", "5", "!"]),
        ("snake_case 'quoted'", ["snake", "case", "quoted"]),
        ("退款abc中", ["退", "款", "abc", "中"]),
        ("アイphone", ["ア", "イ", "phone"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
        ("Straße naïve", ["straße", "naïve"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    assert ids(WORDS_ONLY, text) == [bucket(gram) for gram in [*words, *pairs]]


def test_chinese_gets_no_character_ngrams() -> None:
    only_words = TextNgram(length=64, char_ngrams=(0, 0))
    assert ids(SMALL, "我的订单在哪里") == ids(only_words, "我的订单在哪里")
    with pytest.raises(InputError):
        CHARS_ONLY("我的订单在哪里")
    # … but the English words among it do, as if the Chinese were spaces.
    assert ids(CHARS_ONLY, "我的iphone坏了abc") == ids(CHARS_ONLY, "iphone abc")


def test_the_hash_spreads() -> None:
    words = [f"word{i}" for i in range(2000)]
    seen = {ids(TextNgram(buckets=1 << 24, length=4, char_ngrams=(0, 0)), word)[0] for word in words}
    assert len(seen) >= 1998


@pytest.mark.parametrize("text", ["", " \n\t", "…—«»", "😀", "___", "\ud800", "\u0300\u0301"])
def test_nothing_to_work_on(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        SMALL(text)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", ["a"], {"a": 1}])
def test_only_texts(thing: object) -> None:
    with pytest.raises(InputError, match=f"expected a text, got {type(thing).__name__}"):
        SMALL(thing)


def test_too_long_is_refused_and_the_longest_is_taken() -> None:
    assert SMALL("a" * 4096)[0] == 63
    with pytest.raises(InputError, match="4097 characters; at most 4096"):
        SMALL("a" * 4097)


def test_a_long_text_costs_no_more_hashing_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    # NFKC turns one character into up to 18, so that a small request could keep a server busy for seconds.
    hashed = []

    def counted(raw: bytes) -> int:
        hashed.append(raw)
        return crc32(raw)

    monkeypatch.setattr(text_ngram, "crc32", counted)
    assert SMALL("\ufdfa" * 4096)[0] == 63
    assert len(hashed) <= 64


@given(st.text(st.characters(), max_size=300))
@example("\ud800a\udfff")
@example("ﷺ" * 300)
@example("İ" * 300)
@example("a\0b")
@example("\U0010ffff x")
def test_any_text_makes_a_valid_row_or_an_input_error(text: str) -> None:
    small = TextNgram(buckets=50, length=40, max_chars=290)
    try:
        row = small(text)
    except InputError as error:
        assert "\n" not in str(error)
        normal = unicodedata.normalize("NFKC", text)
        assert len(text) > 290 or not any(char.isascii() and char.isalnum() for char in normal)
        return
    assert (row.shape, row.dtype) == ((40,), np.int32)
    n = int(row[0])
    assert 1 <= n <= 39
    assert ((row[1 : n + 1] >= 1) & (row[1 : n + 1] < 50)).all()
    assert not row[n + 1 :].any()
    np.testing.assert_array_equal(row, small(text))
    np.testing.assert_array_equal(row, TextNgram(**vars(small))(text))


@given(
    st.builds(
        lambda buckets, length, w, c, chars: TextNgram(buckets, length, tuple(sorted(w)), tuple(sorted(c)), chars),
        st.integers(2, 1 << 24),
        st.integers(2, 1 << 16),
        st.tuples(st.integers(0, 16), st.integers(1, 16)),
        st.tuples(st.integers(0, 16), st.integers(0, 16)),
        st.integers(1, 1 << 20),
    )
)
def test_the_description_reads_back(preprocess: TextNgram) -> None:
    assert load(preprocess.to_dict()) == preprocess


def spec(**changes: object) -> dict[str, object]:
    return {**TextNgram().to_dict(), **changes}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (None, "must hold an object, not NoneType"),
        ([], "must hold an object, not list"),
        ({}, "kind .?None.? version .?None"),
        (spec(kind="wordpiece"), "wordpiece"),
        (spec(version=2), "version .?2"),
        (spec(colour=1), "colour"),
        ({key: value for key, value in spec().items() if key != "length"}, "length"),
        (spec(buckets=1), "buckets must be between"),
        (spec(buckets=(1 << 24) + 1), "buckets must be between"),
        (spec(buckets="16384"), "buckets must be a whole number"),
        (spec(buckets=True), "buckets must be a whole number"),
        (spec(buckets=16384.0), "buckets must be a whole number"),
        (spec(length=1), "length must be between"),
        (spec(length=(1 << 16) + 1), "length must be between"),
        (spec(max_chars=0), "max_chars must be between"),
        (spec(word_ngrams=[2, 1]), r"word_ngrams must be \[low, high\]"),
        (spec(word_ngrams=[-1, 1]), r"word_ngrams must be \[low, high\]"),
        (spec(word_ngrams=[0, 0], char_ngrams=[0, 0]), "both empty"),
        (spec(char_ngrams=[3, 17]), r"char_ngrams must be \[low, high\]"),
        (spec(char_ngrams=[3]), "char_ngrams must be two whole numbers"),
        (spec(char_ngrams=3), "char_ngrams must be two whole numbers"),
        (spec(char_ngrams=[3, True]), "char_ngrams must be two whole numbers"),
        (spec(**{"a\nb": 1}), "a.*nb"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(described: object, message: str) -> None:
    with pytest.raises(PreprocessError, match=message) as caught:
        load(described)
    assert "\n" not in str(caught.value)


def test_the_apostrophe_that_phones_type_is_one() -> None:
    preprocess = TextNgram()
    assert np.array_equal(preprocess("where\u2019s my parcel"), preprocess("where's my parcel"))


def test_punctuation_left_of_chinese_gives_no_character_grams() -> None:
    words = TextNgram(char_ngrams=(0, 0))
    assert TextNgram()("退款呢？")[0] == words("退款呢？")[0]
