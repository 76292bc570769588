"""Signed bundles: whose are taken, and that nobody can change one, move a signature or leave it out."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd_runtime import members, signing
from edgekd_runtime.bundle import Bundle, describe, load_bundle
from edgekd_runtime.errors import BundleError, KeyFileError, SignatureError

MODEL = b"model bytes"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        signing.generate(folder / name)
    return folder


@pytest.fixture
def signed(keys: Path, tmp_path: Path) -> Path:
    Bundle("shop", MODEL, "int8", {"x": "x"}, {"y": "y"}, labels=("a", "b")).save(tmp_path / "plain.edgekd")
    signing.sign(tmp_path / "plain.edgekd", signing.read_private(keys / "ours"), tmp_path / "signed.edgekd")
    return tmp_path / "signed.edgekd"


def trusting(keys: Path, *names: str, required: bool = True) -> signing.Trust:
    return signing.trust([keys / f"{name}.pub" for name in names], required)


def test_a_trusted_key_is_named(signed: Path, keys: Path) -> None:
    ours = signing.key_id(signing.read_public(keys / "ours.pub"))
    loaded = load_bundle(signed, trusting(keys, "theirs", "ours"))
    assert loaded.signed_by == ours == describe(loaded)["signed_by"]
    assert loaded.model == MODEL


def test_without_keys_a_signature_is_not_claimed_to_be_checked(signed: Path) -> None:
    assert load_bundle(signed).signed_by == ""


def test_another_key_is_refused_even_if_none_is_required(signed: Path, keys: Path) -> None:
    for required in (True, False):
        with pytest.raises(SignatureError, match="not signed by a trusted key"):
            load_bundle(signed, trusting(keys, "theirs", required=required))


def test_unsigned_is_refused_only_if_required(signed: Path, keys: Path) -> None:
    plain = signed.with_name("plain.edgekd")
    assert load_bundle(plain, trusting(keys, "ours", required=False)).signed_by == ""
    with pytest.raises(SignatureError, match=r"not signed; sign it: edgekd sign plain\.edgekd"):
        load_bundle(plain, trusting(keys, "ours"))


def test_signing_again_replaces_the_signature_and_nothing_else(signed: Path, keys: Path) -> None:
    again = signed.with_name("again.edgekd")
    signing.sign(signed, signing.read_private(keys / "theirs"), again)
    before, after = members.read_members(signed), members.read_members(again)
    assert {name for name in before if before[name] != after[name]} == {"signature.json"}
    assert load_bundle(again, trusting(keys, "theirs"))
    signing.sign(again, signing.read_private(keys / "ours"), again)  # Ed25519 is deterministic
    assert again.read_bytes() == signed.read_bytes()


def test_any_member_changed_with_its_hash_is_refused(signed: Path, keys: Path) -> None:
    """Who can write the file can make its hashes right; not its signature."""
    held = members.read_members(signed)
    for name in ("model.tflite", "labels.txt"):
        manifest = json.loads(held["manifest.json"])
        changed = b"evil" + held[name]
        manifest["files"].update(members.hashes({name: changed}))
        forged = {**held, name: changed, "manifest.json": json.dumps(manifest).encode()}
        members.write_members(signed, forged)
        assert load_bundle(signed)  # without a key nobody can tell
        with pytest.raises(SignatureError):
            load_bundle(signed, trusting(keys, "ours"))


def test_a_signature_moved_from_another_bundle_is_refused(signed: Path, keys: Path) -> None:
    other = signed.with_name("other.edgekd")
    Bundle("shop", b"other", "int8", {"x": "x"}, {"y": "y"}).save(other)
    moved = {**members.read_members(other), "signature.json": members.read_members(signed)["signature.json"]}
    members.write_members(other, moved)
    with pytest.raises(SignatureError):
        load_bundle(other, trusting(keys, "ours"))


def test_the_key_that_a_signature_names_decides_nothing(signed: Path, keys: Path) -> None:
    held = members.read_members(signed)
    entry = json.loads(held["signature.json"])
    members.write_members(signed, {**held, "signature.json": json.dumps({**entry, "key": "someone"}).encode()})
    assert load_bundle(signed, trusting(keys, "ours")).signed_by == entry["key"]


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b"{}",
        b'{"algorithm": "none", "key": "", "signature": ""}',
        b'{"algorithm": "ed25519", "key": "", "signature": "AAAA"}',
        b'{"algorithm": "ed25519", "key": "a\\nb", "signature": "!"}',
        json.dumps({"algorithm": "rsa", "key": "", "signature": base64.b64encode(bytes(64)).decode()}).encode(),
        json.dumps({"algorithm": "ed25519", "key": "a\nb", "signature": base64.b64encode(bytes(64)).decode()}).encode(),
    ],
)
def test_signatures_that_are_none(signed: Path, keys: Path, entry: bytes) -> None:
    members.write_members(signed, {**members.read_members(signed), "signature.json": entry})
    with pytest.raises(SignatureError) as caught:
        load_bundle(signed, trusting(keys, "ours"))
    assert "\n" not in str(caught.value)


def test_nothing_is_added_around_the_members(signed: Path, keys: Path) -> None:
    whole = signed.read_bytes()
    held = members.read_members(signed)
    directory = whole.index(b"PK\x01\x02")
    with zipfile.ZipFile(signed, "w") as archive:
        for name, data in held.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.extra = b"\xff\xff\x04\x00evil" if name == "labels.txt" else b""
            archive.writestr(info, data)
    extra = signed.read_bytes()
    moved = whole[:directory] + b"evil" + whole[directory:-6]  # the directory's place is its last field but one
    moved += (int.from_bytes(whole[-6:-2], "little") + 4).to_bytes(4, "little") + whole[-2:]
    for content in (b"#!/bin/sh\n" + whole, whole[:directory] + b"evil" + whole[directory:], moved, extra):
        signed.write_bytes(content)
        with pytest.raises(BundleError, match="holds more than its members"):
            load_bundle(signed, trusting(keys, "ours"))
    signed.write_bytes(whole)
    assert load_bundle(signed, trusting(keys, "ours")).model == MODEL


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_is_never_trusted(data: st.DataObject, signed: Path, keys: Path, tmp_path: Path) -> None:
    content = bytearray(signed.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "damaged").write_bytes(content)
    try:
        loaded = load_bundle(tmp_path / "damaged", trusting(keys, "ours"))
    except BundleError as error:
        assert "\n" not in str(error)
        return
    assert loaded == load_bundle(signed, trusting(keys, "ours"))


# --- key files ---


def test_a_key_is_the_owners_and_never_overwritten(keys: Path) -> None:
    assert (keys / "ours").stat().st_mode & 0o777 == 0o600
    before = (keys / "ours").read_bytes()
    with pytest.raises(KeyFileError, match="exists already"):
        signing.generate(keys / "ours")
    assert (keys / "ours").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(keys: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes((keys / "ours").read_bytes())
    copy.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        signing.read_private(copy)


def test_an_encrypted_key_wants_its_passphrase(tmp_path: Path) -> None:
    signing.generate(tmp_path / "key", "correct horse")
    assert signing.is_encrypted(tmp_path / "key")
    for wrong in (None, "battery staple"):
        with pytest.raises(KeyFileError, match="passphrase"):
            signing.read_private(tmp_path / "key", wrong)
    key = signing.read_private(tmp_path / "key", "correct horse")
    assert signing.key_id(key.public_key()) == signing.key_id(signing.read_public(tmp_path / "key.pub"))


def test_files_that_are_no_keys(keys: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = ec.generate_private_key(ec.SECP256R1())
    pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "curve.pub").write_bytes(curve.public_key().public_bytes(pem, info))
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "none", tmp_path, tmp_path / "text", tmp_path / "curve.pub", keys / "ours"):
        with pytest.raises(KeyFileError) as caught:
            signing.read_public(path)
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "none", tmp_path, keys / "ours.pub"):
        with pytest.raises(KeyFileError):
            signing.read_private(path)


def test_a_public_key_is_a_small_file(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="not a regular file"):
        signing.read_public(Path("/dev/null"))  # as of /dev/zero, which has no end
    (tmp_path / "large").write_bytes((keys / "ours.pub").read_bytes() + b"\n" * (1 << 16))
    with pytest.raises(KeyFileError, match="larger than 65536 bytes"):
        signing.read_public(tmp_path / "large")


def test_openssl_makes_and_checks_the_same_signature(signed: Path, keys: Path, tmp_path: Path) -> None:
    """An independent implementation, where it is installed: the format is what the documentation says."""
    entry = json.loads(members.read_members(signed)["signature.json"])
    message, signature = tmp_path / "message", tmp_path / "signature"
    message.write_bytes(b"edgekd bundle signature, version 1\n" + members.read_members(signed)["manifest.json"])
    signature.write_bytes(base64.b64decode(entry["signature"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys / "ours.pub", "-rawin"]
    try:
        done = subprocess.run([*command, "-in", message, "-sigfile", signature], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert "Verified Successfully" in done.stdout, done.stderr


def test_what_is_missing_without_cryptography(signed: Path, keys: Path) -> None:
    """A bundle that is signed is read all the same; checking it says what to install."""
    program = (
        "import sys; sys.modules['cryptography'] = None; from pathlib import Path\n"
        "from edgekd_runtime import bundle, errors, signing\n"
        f"print(bundle.load_bundle(Path({str(signed)!r})).name)\n"
        f"try: signing.trust([Path({str(keys / 'ours.pub')!r})], True)\n"
        "except errors.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "shop",
        "signatures need the package cryptography: pip install 'edgekd-runtime[sign]'",
    ]
