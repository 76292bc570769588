"""Ed25519 signatures of bundles (RFC 8032, by the package ``cryptography``).

What is signed is the manifest, byte for byte, after a line that keeps the signature from being taken for one of
anything else; the manifest lists the SHA-256 of every other member, and a bundle with a member more or less is refused.
The member ``signature.json`` holds ``algorithm``, ``key`` (which key, for people) and ``signature`` (base64). Keys are
PEM files as OpenSSL writes them: PKCS #8 the private one, SubjectPublicKeyInfo the public one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekd_runtime import atomic, members, private
from edgekd_runtime.errors import BundleError, KeyFileError, MissingExtraError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_CONTEXT = b"edgekd bundle signature, version 1\n"
_ALGORITHM = "ed25519"
_SIGNATURE_BYTES = 64
_EXTRA = "signatures need the package cryptography: pip install 'edgekd-runtime[sign]'"


@dataclass(frozen=True)
class Trust:
    """Whose bundles are taken: with ``keys``, none that another signed; if ``required``, none unsigned."""

    keys: tuple[Ed25519PublicKey, ...] = ()
    required: bool = False

    def check(self, path: Path, manifest: bytes, signature: bytes | None) -> str:
        """Id of the trusted key that signed ``manifest``; without keys, or unsigned, "". Raises ``SignatureError``."""
        if signature is None:
            if self.required:
                raise SignatureError(f"{path}: the bundle is not signed; sign it: edgekd sign {path.name} --key KEY")
            return ""
        signed, claimed = _parse(path, signature)
        if not self.keys:
            return ""
        for key in self.keys:
            if _verifies(key, signed, manifest):
                return key_id(key)
        trusted = ", ".join(key_id(key) for key in self.keys)
        raise SignatureError(
            f"{path}: not signed by a trusted key, or changed since: it names key {claimed}, trusted: {trusted}"
        )


ANYBODY = Trust()


def trust(public_keys: Sequence[Path], required: bool) -> Trust:
    """The keys in these files. Raises ``KeyFileError``, ``MissingExtraError``."""
    if required and not public_keys:
        raise KeyFileError("a signature can only be required with the keys that may give it: add --public-key FILE")
    return Trust(tuple(read_public(path) for path in public_keys), required)


def key_id(key: Ed25519PublicKey) -> str:
    """16 hexadecimal digits that tell a key from others: the beginning of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def generate(path: Path, passphrase: str | None = None) -> str:
    """Write a new key to ``path`` (mode 600), its public half to ``path.pub``; its id. Raises ``KeyFileError``."""
    ed25519, serialization = _cryptography()
    public_path = path.with_name(f"{path.name}.pub")
    if taken := [one for one in (path, public_path) if one.exists()]:
        raise KeyFileError(f"{taken[0]} exists already, and a key that is overwritten is lost; take another name")
    key: Ed25519PrivateKey = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    cipher = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    try:
        atomic.write_bytes(path, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, cipher), mode=0o600)
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        atomic.write_bytes(public_path, public)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror or error}") from error
    return key_id(key.public_key())


def sign(path: Path, key: Ed25519PrivateKey, output: Path) -> str:
    """Write the bundle at ``path``, which ``load_bundle`` has found whole, to ``output``, signed; the key's id.

    A signature that it had is replaced. Raises ``BundleError``.
    """
    held = members.read_members(path)
    held.pop(members.SIGNATURE, None)
    manifest = held[members.MANIFEST]
    identity = key_id(key.public_key())
    signature = base64.b64encode(key.sign(_CONTEXT + manifest)).decode()
    entry = json.dumps({"algorithm": _ALGORITHM, "key": identity, "signature": signature}) + "\n"
    try:
        members.write_members(output, {**held, members.SIGNATURE: entry.encode()})
    except OSError as error:
        raise BundleError(f"{output}: cannot be written: {error.strerror or error}") from error
    return identity


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase opens this private key. Raises ``KeyFileError``."""
    return b"ENCRYPTED" in private.read_private(path)


def read_private(path: Path, passphrase: str | None = None) -> Ed25519PrivateKey:
    """Raises ``KeyFileError``."""
    ed25519, serialization = _cryptography()
    content = private.read_private(path)
    try:
        key = serialization.load_pem_private_key(content, passphrase.encode() if passphrase else None)
    except Exception as error:  # TypeError, ValueError, and of its own UnsupportedAlgorithm
        raise KeyFileError(f"{path}: not a private key in PEM, or the passphrase is wrong: {_reason(error)}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{path}: not an Ed25519 key; make one: edgekd keygen")
    return cast("Ed25519PrivateKey", key)


def read_public(path: Path) -> Ed25519PublicKey:
    """Raises ``KeyFileError``."""
    ed25519, serialization = _cryptography()
    content = private.read_open(path)
    try:
        key = serialization.load_pem_public_key(content)
    except Exception as error:
        raise KeyFileError(f"{path}: not a public key in PEM: {_reason(error)}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise KeyFileError(f"{path}: not an Ed25519 key; 'edgekd keygen' writes one to NAME.pub")
    return cast("Ed25519PublicKey", key)


def _parse(path: Path, member: bytes) -> tuple[bytes, str]:
    """The signature's bytes, and the id of the key that it claims to be of. Raises ``SignatureError``."""
    try:
        entry = json.loads(member.decode())
        algorithm, claimed, coded = (str(entry[field]) for field in ("algorithm", "key", "signature"))
        signature = base64.b64decode(coded, validate=True)
        if algorithm != _ALGORITHM or len(signature) != _SIGNATURE_BYTES:
            raise ValueError(f"no signature of {_ALGORITHM}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SignatureError(f"{path}: signature.json is damaged: {type(error).__name__}: {_reason(error)}") from error
    return signature, repr(claimed[:16])


def _verifies(key: Ed25519PublicKey, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _CONTEXT + manifest)
    except InvalidSignature:
        return False
    return True


def _cryptography() -> tuple[Any, Any]:
    """Its modules ``ed25519`` and ``serialization``. Raises ``MissingExtraError``."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtraError(_EXTRA) from error
    return ed25519, serialization


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
