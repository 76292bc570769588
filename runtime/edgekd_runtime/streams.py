"""A program's standard streams, whatever they lead to: a pipe, a full disk, a terminal of another encoding, nothing."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare() -> None:
    """At the program's start. What cannot be written in the locale's encoding becomes ``?``.

    In place of a stream that is closed comes one that leads nowhere, lest a file or socket get its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if isinstance(sys.stdout, io.TextIOWrapper):  # standard error is written with escapes anyway
        sys.stdout.reconfigure(errors="replace")


def takes_output() -> bool:
    """Whether standard output can be written to, by an empty line."""
    try:
        if sys.stdout is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()
    except OSError:
        return False
    return True


def drop_output() -> None:
    """Let standard output go nowhere from now on: what is stuck in it would be tried again at the program's end."""
    with contextlib.suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
