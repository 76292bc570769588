"""``edgekd keygen`` and ``edgekd sign``: a key, a signed bundle, and one line for all that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekd.cli import main
from edgekd_runtime import signing
from edgekd_runtime.bundle import Bundle, load_bundle


def run(*arguments: str | Path, **options: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], **options)  # type: ignore[arg-type]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    Bundle("shop", b"model", "int8", {"x": "x"}, {"y": "y"}, version="7").save(tmp_path / "shop.edgekd")
    return tmp_path / "shop.edgekd"


def test_a_key_signs_a_bundle_in_place(bundle: Path, tmp_path: Path) -> None:
    made = run("keygen", tmp_path / "key", "--json")
    assert made.exit_code == 0
    identity = json.loads(made.stdout)["key"]
    signed = run("sign", bundle, "--key", tmp_path / "key", "--json")
    assert json.loads(signed.stdout) == {"bundle": str(bundle), "name": "shop", "version": "7", "key": identity}
    assert load_bundle(bundle, signing.trust([tmp_path / "key.pub"], True)).signed_by == identity


def test_another_output_leaves_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    run("keygen", tmp_path / "key", "--quiet")
    before = bundle.read_bytes()
    done = run("sign", bundle, "--key", tmp_path / "key", "--output", tmp_path / "signed.edgekd")
    assert (done.exit_code, bundle.read_bytes()) == (0, before)
    assert "shop, version 7" in done.stdout
    assert load_bundle(tmp_path / "signed.edgekd", signing.trust([tmp_path / "key.pub"], True))


def test_an_encrypted_key_asks_for_its_passphrase(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("keygen", tmp_path / "key", "--encrypt", "--json", input="horse\nhorse\n").exit_code == 0
    wrong = run("sign", bundle, "--key", tmp_path / "key", input="mule\n")
    assert wrong.exit_code == 2
    assert "passphrase is wrong" in wrong.stderr
    assert run("sign", bundle, "--key", tmp_path / "key", input="horse\n").exit_code == 0
    monkeypatch.setenv("EDGEKD_KEY_PASSPHRASE", "horse")
    assert run("sign", bundle, "--key", tmp_path / "key").exit_code == 0


def test_what_can_be_wrong_is_one_line(bundle: Path, tmp_path: Path) -> None:
    run("keygen", tmp_path / "key", "--quiet")
    (tmp_path / "damaged.edgekd").write_bytes(bundle.read_bytes()[:-1])
    (tmp_path / "open").write_bytes((tmp_path / "key").read_bytes())
    (tmp_path / "open").chmod(0o644)
    for arguments, code in (
        (("keygen", tmp_path / "key"), 2),
        (("keygen", bundle / "key"), 2),
        (("sign", bundle, "--key", tmp_path / "none"), 2),
        (("sign", bundle, "--key", tmp_path / "key.pub"), 2),
        (("sign", bundle, "--key", tmp_path / "open"), 2),
        (("sign", tmp_path / "damaged.edgekd", "--key", tmp_path / "key"), 1),
        (("sign", bundle, "--key", tmp_path / "key", "--output", bundle / "x.edgekd"), 1),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (code, ""), (arguments, done.exception)
        assert done.stderr.count("\n") == 1, done.stderr
