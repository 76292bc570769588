"""The bundle format: it reads back, and nothing damaged, forged or foreign gets further than one line of error."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd_runtime.bundle import Bundle, Golden, describe, load_bundle
from edgekd_runtime.errors import BundleError
from edgekd_runtime.preprocess import TextNgram

EPOCH = (1980, 1, 1, 0, 0, 0)
Manifest = dict[str, Any]


def sample(**changes: Any) -> Bundle:
    bundle = Bundle(
        name="shop",
        version="1.2",
        model=b"model bytes",
        precision="int8",
        inputs={"ids": "serving_default_ids:0"},
        outputs={"logits": "StatefulPartitionedCall:0", "extra": "other:0"},
        scores="probabilities",
        labels=("track", "退款", ""),
        preprocess=TextNgram(length=3),
        threshold=0.25,
        answers={"track": {"en": "There.", "zh": "在那里。"}},
        golden=Golden(
            {"ids": np.arange(6, dtype=np.int32).reshape(2, 3)},
            {"logits": np.array([[1, -2, 3], [-128, 127, 0]], np.int8), "extra": np.ones((2, 2), np.float32) / 3},
            "litert",
            ("hello", "你好"),
        ),
        created_by="a test",
    )
    return replace(bundle, **changes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "shop.edgekd"
    sample().save(path)
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, compression)
    return path


def forge(
    path: Path,
    edit: Callable[[Manifest], object] | None = None,
    files: dict[str, bytes] | None = None,
    edit_json: Callable[[str], str] = str,
) -> Path:
    """A bundle whose hashes are right but whose content is not what edgekd would write."""
    sample().save(path)
    members = members_of(path)
    manifest = json.loads(members["manifest.json"])
    for name, data in (files or {}).items():
        members[name] = data
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if edit is not None:
        edit(manifest)
    members["manifest.json"] = edit_json(json.dumps(manifest)).encode()
    return write_zip(path, members)


def assert_refused(path: Path, fragment: str = "") -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert fragment in message


# --- what is written is what is read ---


def test_reads_back(saved: Path) -> None:
    expected, got = sample(), load_bundle(saved)
    assert replace(got, golden=None) == replace(expected, golden=None)
    assert got.golden is not None
    assert expected.golden is not None
    assert (got.golden.texts, got.golden.backend, len(got.golden)) == (("hello", "你好"), "litert", 2)
    for role in ("inputs", "outputs"):
        wanted, read = getattr(expected.golden, role), getattr(got.golden, role)
        assert list(wanted) == list(read)
        for name, array in wanted.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_reads_back_with_only_what_it_must_have(tmp_path: Path) -> None:
    least = Bundle("a", b"", "float32", {"x": "x"}, {"y": "y"})
    least.save(tmp_path / "a.edgekd")
    assert load_bundle(tmp_path / "a.edgekd") == least
    assert set(members_of(tmp_path / "a.edgekd")) == {"manifest.json", "model.tflite"}


def test_same_content_same_bytes(saved: Path, tmp_path: Path) -> None:
    sample().save(tmp_path / "again.edgekd")
    assert (tmp_path / "again.edgekd").read_bytes() == saved.read_bytes()
    load_bundle(saved).save(tmp_path / "reread.edgekd")
    assert (tmp_path / "reread.edgekd").read_bytes() == saved.read_bytes()


def test_big_endian_golden_arrays_are_stored_little_endian(saved: Path, tmp_path: Path) -> None:
    golden = sample().golden
    assert golden is not None
    swapped = replace(golden, inputs={name: array.astype(">i4") for name, array in golden.inputs.items()})
    sample(golden=swapped).save(tmp_path / "swapped.edgekd")
    assert members_of(tmp_path / "swapped.edgekd")["golden.bin"] == members_of(saved)["golden.bin"]


def test_a_bundle_that_does_not_say_what_its_scores_are_gives_logits(tmp_path: Path) -> None:
    path = forge(tmp_path / "old.edgekd", lambda m: m.pop("scores"))
    assert load_bundle(path).scores == "logits"


def test_members_are_stored_so_that_the_model_can_be_mapped(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert saved.read_bytes().count(b"model bytes") == 1


@given(st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8")), max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_label_without_a_line_feed_reads_back(tmp_path: Path, labels: list[str]) -> None:
    sample(labels=tuple(labels)).save(tmp_path / "labels.edgekd")
    assert load_bundle(tmp_path / "labels.edgekd").labels == tuple(labels)


def test_a_label_with_a_line_feed_is_refused_before_it_is_written() -> None:
    with pytest.raises(BundleError, match="label"):
        sample(labels=("a\nb",))


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", ".hidden", "ä", "a\n", "x" * 129])
@pytest.mark.parametrize("what", ["name", "version"])
def test_names_that_could_do_harm_in_a_path_or_url(name: str, what: str) -> None:
    with pytest.raises(BundleError, match=f"cannot be the bundle's {what}") as caught:
        sample(**{what: name})
    assert "\n" not in str(caught.value)


def test_description_is_json_and_has_no_bulk() -> None:
    facts = json.loads(json.dumps(describe(sample())))
    assert facts["model_bytes"] == len(b"model bytes")
    assert (facts["golden_samples"], facts["answer_languages"]) == (2, ["en", "zh"])
    assert facts["labels"] == ["track", "退款", ""]
    assert facts["scores"] == "probabilities"
    assert not {"model", "golden", "answers"} & set(facts)


# --- what is no bundle at all ---


def test_no_such_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.edgekd", "none.edgekd: no such file")


def test_a_directory(tmp_path: Path) -> None:
    assert_refused(tmp_path, str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip at all" * 100, b"PK\x05\x06" + b"\0" * 18])
def test_not_a_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.edgekd"
    path.write_bytes(content)
    assert_refused(path, str(path))


# --- damage ---


def test_truncated_anywhere(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    path = tmp_path / "cut.edgekd"
    for size in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:size])
        assert_refused(path)


@pytest.mark.parametrize(
    "member", ["manifest.json", "model.tflite", "preprocess.json", "labels.txt", "answers.json", "golden.bin"]
)
def test_a_flipped_bit_in_any_member(saved: Path, tmp_path: Path, member: str) -> None:
    content, data = bytearray(saved.read_bytes()), members_of(saved)[member]
    place = bytes(content).index(data) + len(data) // 2
    content[place] ^= 1
    path = tmp_path / "flipped.edgekd"
    path.write_bytes(content)
    assert_refused(path)


@pytest.mark.parametrize("member", ["model.tflite", "preprocess.json", "labels.txt", "answers.json", "golden.bin"])
def test_a_replaced_member_does_not_match_its_hash(saved: Path, tmp_path: Path, member: str) -> None:
    members = members_of(saved)
    members[member] = members[member][:-1] + bytes([members[member][-1] ^ 1])
    assert_refused(write_zip(tmp_path / "x.edgekd", members), f"{member} does not match its SHA-256")


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_is_refused_or_harmless(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    directory = content.index(b"PK\x01\x02")
    place = st.integers(0, len(content) - 1) | st.integers(directory, len(content) - 1)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)):
        content[at] = value
    path = tmp_path / "damaged.edgekd"
    path.write_bytes(content)
    try:
        got = load_bundle(path)
    except BundleError as error:
        assert "\n" not in str(error)
        return
    # Time stamps and attributes of a zip mean nothing; everything that does is hashed.
    assert replace(got, golden=None) == replace(sample(), golden=None)


def test_a_member_name_that_is_not_utf8(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 9] |= 0x08  # general purpose bit 11: the name is UTF-8
    content[entry + 46] = 0xFF
    path = tmp_path / "x.edgekd"
    path.write_bytes(content)
    assert_refused(path, str(path))


# --- forgery ---


@pytest.mark.parametrize(
    "name", ["evil.sh", "../../etc/passwd", "/etc/passwd", "MANIFEST.JSON", "a\nb", "model.tflite/"]
)
def test_a_foreign_member(saved: Path, tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "x.edgekd", {**members_of(saved), name: b"x"})
    assert_refused(path, repr(name))
    assert [one.name for one in tmp_path.iterdir()] == ["x.edgekd"]


def test_a_member_twice(saved: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.edgekd", members_of(saved))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo("labels.txt", EPOCH), b"other\n")
    assert_refused(path, "repeated member")


@pytest.mark.parametrize("member", ["manifest.json", "model.tflite", "labels.txt", "golden.bin"])
def test_a_missing_member(saved: Path, tmp_path: Path, member: str) -> None:
    members = {name: data for name, data in members_of(saved).items() if name != member}
    assert_refused(write_zip(tmp_path / "x.edgekd", members), member)


def test_a_member_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    assert_refused(forge(tmp_path / "x.edgekd", lambda m: m["files"].pop("labels.txt")), "labels.txt")


def test_a_compressed_bundle(saved: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.edgekd", members_of(saved), zipfile.ZIP_DEFLATED)
    assert_refused(path, "compressed")


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    members = {"manifest.json": b"{}", "model.tflite": b"\0" * (64 << 20)}
    assert_refused(write_zip(tmp_path / "x.edgekd", members, zipfile.ZIP_DEFLATED), "compressed")


def test_a_member_that_claims_to_be_larger_than_the_file(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (1 << 30).to_bytes(4, "little")
    path = tmp_path / "x.edgekd"
    path.write_bytes(content)
    assert_refused(path, "larger than the file")


def array(k: int, **lies: Any) -> Callable[[Manifest], object]:
    return lambda manifest: manifest["golden"]["arrays"][k].update(lies)


MANIFEST_LIES: dict[str, Callable[[Manifest], object]] = {
    "another format": lambda m: m.update(format="zip"),
    "a future version": lambda m: m.update(format_version=2),
    "version as text": lambda m: m.update(format_version="1"),
    "no name": lambda m: m.pop("name"),
    "a name that is a list": lambda m: m.update(name=["shop"]),
    "a path as name": lambda m: m.update(name="../shop"),
    "no inputs": lambda m: m.pop("inputs"),
    "inputs as text": lambda m: m.update(inputs="ids"),
    "an input without tensor": lambda m: m.update(inputs=[{"name": "ids"}]),
    "a precision of two lines": lambda m: m.update(precision="int8\nfast"),
    "half a surrogate as precision": lambda m: m.update(precision="\ud800"),
    "half a surrogate as note": lambda m: m.update(precision_note="a\udfff"),
    "half a surrogate as key": lambda m: m["inputs"][0].update({"\ud800": 1}),
    "half a surrogate in a golden text": lambda m: m["golden"].update(texts=["\ud800", "b"]),
    "scores of another kind": lambda m: m.update(scores="odds"),
    "scores null": lambda m: m.update(scores=None),
    "scores as list": lambda m: m.update(scores=["logits"]),
    "scores of two lines": lambda m: m.update(scores="logits\n"),
    "threshold as list": lambda m: m.update(threshold=[1]),
    "threshold as text": lambda m: m.update(threshold="high"),
    "threshold NaN": lambda m: m.update(threshold=float("nan")),
    "threshold above 1": lambda m: m.update(threshold=1.5),
    "threshold without end": lambda m: m.update(threshold=10**400),
    "files as list": lambda m: m.update(files=[]),
    "a hash missing": lambda m: m["files"]["model.tflite"].pop("sha256"),
    "another hash": lambda m: m["files"]["model.tflite"].update(sha256="0" * 64),
    "another size": lambda m: m["files"]["model.tflite"].update(bytes=3),
    "golden as text": lambda m: m.update(golden="yes"),
    "no arrays": lambda m: m["golden"].update(arrays=[]),
    "arrays as number": lambda m: m["golden"].update(arrays=7),
    "texts as null": lambda m: m["golden"].update(texts=None),
    "array too long": array(0, shape=[4, 3]),
    "array too short": array(0, shape=[1, 3]),
    "a wider dtype": array(1, dtype="int64"),
    "a narrower dtype": array(0, dtype="int8"),
    "a dtype of objects": array(0, dtype="O"),
    "no such dtype": array(0, dtype="int4"),
    "a dtype of two lines": array(0, dtype="datetime64[\n]"),
    "a dtype that is code": array(0, dtype="(__import__('os').getcwd())i4,i4"),
    "a dtype that is broken code": array(0, dtype="i1,(2,"),
    "a structured dtype": array(1, dtype={"names": ["a"], "formats": ["i1"]}),
    "dtype null": array(0, dtype=None),
    "a shape of text": array(0, shape="23"),
    "a size that is text": array(0, shape=["2", "3"]),
    "a size that is a fraction": array(0, shape=[2.5, 3]),
    "an open size": array(0, shape=[-1, 3]),
    "two negative sizes": array(0, shape=[-2, -3]),
    "infinite size": array(0, shape=[float("inf")]),
    "huge size": array(0, shape=[10**30]),
    "huge product": array(0, shape=[1 << 62, 4]),
    "huge times nothing": array(0, shape=[0, 10**30]),
    "too many axes": array(0, shape=[2, 3, *[1] * 70]),
    "no axes": array(0, shape=[]),
    "no such role": array(0, role="weights"),
    "a role that is a list": array(0, role=[]),
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a_manifest_that_lies(tmp_path: Path, lie: str) -> None:
    assert_refused(forge(tmp_path / "x.edgekd", MANIFEST_LIES[lie]))


FORGED_FILES: dict[str, tuple[str, bytes]] = {
    "labels not UTF-8": ("labels.txt", b"\xff\n"),
    "answers not UTF-8": ("answers.json", b'{"a": {"en": "\xff"}}'),
    "answers half a surrogate": ("answers.json", b'{"a": {"en": "\\ud800"}}'),
    "answers broken": ("answers.json", b"{"),
    "answers a list": ("answers.json", b"[1]"),
    "answers flat": ("answers.json", b'{"a": "b"}'),
    "answers deep": ("answers.json", b"[" * 100_000),
    "preprocess a list": ("preprocess.json", b"[]"),
    "preprocess broken": ("preprocess.json", b"{"),
    "preprocess unknown": ("preprocess.json", b'{"kind": "magic", "version": 1}'),
    "preprocess deep": ("preprocess.json", b'{"kind": ' * 100_000),
    "preprocess nested": ("preprocess.json", b'{"kind": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "preprocess of two lines": ("preprocess.json", b'{"kind": "text-ngram", "version": 1, "a\\nb": 1}'),
    "preprocess huge": ("preprocess.json", json.dumps({**TextNgram().to_dict(), "length": 10**9}).encode()),
    "golden too long": ("golden.bin", b"\0" * 1000),
    "golden too short": ("golden.bin", b""),
}


@pytest.mark.parametrize("what", FORGED_FILES)
def test_a_member_with_a_right_hash_and_wrong_content(tmp_path: Path, what: str) -> None:
    name, data = FORGED_FILES[what]
    assert_refused(forge(tmp_path / "x.edgekd", files={name: data}))


@pytest.mark.parametrize(
    "edit_json",
    [
        lambda _: "",
        lambda _: "null",
        lambda _: "[]",
        lambda _: "[" * 100_000,
        lambda _: '{"a":' * 100_000,
        lambda text: text[:-1],
        lambda text: text.replace('"format_version": 1', '"format_version": ' + "1" * 5000),
        lambda text: text.replace('"name": "shop"', '"name": ' + "[" * 900 + "]" * 900),
        lambda text: text.replace('"format": "edgekd"', '"format": ' + "[" * 900 + "]" * 900),
    ],
)
def test_a_manifest_that_is_no_manifest(tmp_path: Path, edit_json: Callable[[str], str]) -> None:
    assert_refused(forge(tmp_path / "x.edgekd", edit_json=edit_json))


def test_unknown_scores_are_named(tmp_path: Path) -> None:
    path = forge(tmp_path / "x.edgekd", lambda m: m.update(scores="odds" * 99))
    assert_refused(path, "scores 'oddsoddsodds")


def test_a_future_format_says_how_to_mend_it(tmp_path: Path) -> None:
    path = forge(tmp_path / "x.edgekd", lambda m: m.update(format_version=2))
    assert_refused(path, "reads version 1; update edgekd-runtime")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_in_the_manifest(data: st.DataObject, tmp_path: Path) -> None:
    def edit(manifest: Manifest) -> None:
        at: Any = manifest
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
                at = at[key]
                continue
            at[key] = data.draw(JSON)
            return

    path = forge(tmp_path / "x.edgekd", edit)
    try:
        load_bundle(path)
    except BundleError as error:
        assert "\n" not in str(error)


# --- attacks on whoever opens the zip ---


def test_a_member_that_is_a_link(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.edgekd"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members_of(saved).items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = (0o120777 if name == "labels.txt" else 0o100644) << 16
            archive.writestr(info, b"/etc/passwd" if name == "labels.txt" else data)
    assert_refused(path, "labels.txt is a link or no file")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.edgekd")
    assert_refused(tmp_path / "x.edgekd", "no regular file")


def test_a_directory_of_many_entries_is_refused_unread(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.edgekd"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(1000):
            archive.writestr(f"{number}", b"")
    assert_refused(path, "directory claims to be huge")


def test_a_zip64_that_hides_a_huge_directory(saved: Path, tmp_path: Path) -> None:
    """Its records stand before the usual end and overrule it."""
    content, end = saved.read_bytes()[:-22], saved.read_bytes()[-22:]
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 9, 9, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content), 1)
    path = tmp_path / "x.edgekd"
    path.write_bytes(content + record + locator + end)
    assert_refused(path, "does not end as one does")


def test_a_file_larger_than_any_bundle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.edgekd"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse
    assert_refused(path, "larger than 1073741824 bytes")


def test_encrypted_and_overlapping_members(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    path = tmp_path / "x.edgekd"
    path.write_bytes(content)
    assert_refused(path, "encrypted")
    members = members_of(saved)
    overlapping = bytearray(saved.read_bytes())
    second = overlapping.index(b"PK\x01\x02", entry + 4)
    overlapping[second + 42 : second + 46] = (0).to_bytes(4, "little")  # where the first member begins
    path.write_bytes(overlapping)
    assert_refused(path)
    assert len(members) > 2


def test_hundred_bundles_leave_no_file_open(saved: Path, tmp_path: Path) -> None:
    bad = write_zip(tmp_path / "x.edgekd", {"a": b""})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        load_bundle(saved)
        assert_refused(bad)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
