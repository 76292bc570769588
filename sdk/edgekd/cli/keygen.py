"""``edgekd keygen``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgekd.cli import common
from edgekd_runtime import signing

PASSPHRASE = "EDGEKD_KEY_PASSPHRASE"


@click.command("keygen")
@click.argument("key", type=common.PATH)
@click.option(
    "--encrypt", is_flag=True, help=f"Ask for a passphrase and encrypt the key with it (or take ${PASSPHRASE})."
)
@common.json_option
@common.quiet_option
@common.reports_errors
def command(key: Path, encrypt: bool, as_json: bool, quiet: bool) -> None:
    """Make an Ed25519 key that signs bundles: KEY, to be kept secret, and KEY.pub, for the boards."""
    passphrase = None
    if encrypt and not (passphrase := os.environ.get(PASSPHRASE)):
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    identity = signing.generate(key, passphrase)
    public = key.with_name(f"{key.name}.pub")
    report = {"key": identity, "private": str(key), "public": str(public), "encrypted": encrypt}
    rows = [("key", identity), ("private, keep it secret", str(key)), ("public, for the boards", str(public))]
    common.print_result(report, "signing key", rows, as_json=as_json, quiet=quiet)
