"""``edgekd sign``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgekd.cli import common
from edgekd.cli.keygen import PASSPHRASE
from edgekd_runtime import signing
from edgekd_runtime.bundle import load_bundle


@click.command("sign")
@click.argument("bundle", type=common.PATH)
@click.option("--key", type=common.PATH, required=True, help="Private key, as 'edgekd keygen' writes it.")
@click.option("--output", type=common.PATH, help="Write the signed bundle here. [default: in place]")
@common.json_option
@common.quiet_option
@common.reports_errors
def command(bundle: Path, key: Path, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Sign BUNDLE with an Ed25519 key; an encrypted one asks for its passphrase (or takes $EDGEKD_KEY_PASSPHRASE)."""
    loaded = load_bundle(bundle)
    passphrase = None
    if signing.is_encrypted(key) and not (passphrase := os.environ.get(PASSPHRASE)):
        passphrase = click.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    written = output or bundle
    identity = signing.sign(bundle, signing.read_private(key, passphrase), written)
    report = {"bundle": str(written), "name": loaded.name, "version": loaded.version, "key": identity}
    rows = [("bundle", f"{loaded.name}, version {loaded.version}"), ("key", identity), ("written", str(written))]
    common.print_result(report, "signed bundle", rows, as_json=as_json, quiet=quiet)
