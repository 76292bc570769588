"""``python -m edgekd``."""

from edgekd.cli import main

main(prog_name="edgekd")
