"""``python -m edgekd_runtime``."""

from edgekd_runtime.cli import main

main(prog_name="edgekd-runtime")
