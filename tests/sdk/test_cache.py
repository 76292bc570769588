"""The cache saves time and never does harm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.cache import cache_root, cached_array, content_key

Array = npt.NDArray[np.float32]
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


class Compute:
    """Counts how often it is asked."""

    calls = 0

    def __call__(self) -> Array:
        self.calls += 1
        return VALUES + self.calls


def stored(root: Path) -> Path:
    (path,) = root.rglob("*.npy")
    return path


def test_a_miss_then_a_hit(own_cache: Path) -> None:
    compute = Compute()
    first, found = cached_array("kind", "key", compute)
    again, found_again = cached_array("kind", "key", compute)
    assert (found, found_again, compute.calls) == (False, True, 1)
    np.testing.assert_array_equal(first, VALUES + 1)
    np.testing.assert_array_equal(again, first)
    assert again.dtype == np.float32


def test_kind_and_key_both_tell_apart(own_cache: Path) -> None:
    compute = Compute()
    for kind, key in (("a", "x"), ("a", "y"), ("b", "x")):
        assert not cached_array(kind, key, compute)[1]
    assert compute.calls == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"garbage" * 50,
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:9] + b"\xff" + content[10:],
        lambda content: b"PK\x03\x04" + content[4:],
        lambda content: content.replace(b"(3, 4)", b"(3, 4 "),
    ],
    ids=["empty", "garbage", "half", "one-byte-short", "header", "zip", "open-bracket"],
)
def test_a_damaged_file_is_computed_anew_and_replaced(own_cache: Path, damage: Callable[[bytes], bytes]) -> None:
    compute = Compute()
    cached_array("kind", "key", compute)
    path = stored(own_cache)
    path.write_bytes(damage(path.read_bytes()))
    array, found = cached_array("kind", "key", compute)
    assert not found
    np.testing.assert_array_equal(array, VALUES + 2)
    assert cached_array("kind", "key", compute)[1]


def test_a_pickle_is_not_run(own_cache: Path) -> None:
    cached_array("kind", "key", Compute())
    np.save(stored(own_cache), np.array([{"a": 1}], object), allow_pickle=True)
    assert not cached_array("kind", "key", Compute())[1]


@pytest.mark.parametrize("root", ["/proc/nowhere", "/dev/null/under-a-file"])
def test_a_root_that_cannot_be_written_costs_time_only(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", root)
    compute = Compute()
    for call in (1, 2):
        array, found = cached_array("kind", "key", compute)
        assert not found
        np.testing.assert_array_equal(array, VALUES + call)


def test_a_failing_computation_stores_nothing(own_cache: Path) -> None:
    def fail() -> Array:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached_array("kind", "key", fail)
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "a"))
    assert cache_root() == tmp_path / "a"
    monkeypatch.delenv("EDGEKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "b" / "edgekd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_root() == tmp_path / "c" / ".cache" / "edgekd"


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.lists(st.text()), max_size=4))
def test_the_key_hangs_on_content_alone(parts: dict[str, object]) -> None:
    backwards = dict(reversed(parts.items()))
    assert content_key(parts=parts) == content_key(parts=backwards)
    assert content_key(parts=parts) != content_key(parts=[parts])
    assert content_key(parts=parts) != content_key(part=parts)


def test_the_key_tells_apart_what_joins_to_the_same_text() -> None:
    assert content_key(texts=["a b", "c"]) != content_key(texts=["a", "b c"])
