"""The error tree of the targets. A message is one line: what, where, and how to mend it.

``exit_code`` is what a command line ends with.
"""


class TargetError(Exception):
    """Root of all errors that the targets raise on purpose."""

    exit_code = 1


class BoardError(TargetError):
    """No such board, or its file is malformed."""

    exit_code = 2


class EmulatorError(TargetError):
    """The emulated board cannot be built or does not run."""


class ToolMissingError(EmulatorError):
    """A program that the emulator needs is not installed."""


class PackagesError(EmulatorError):
    """The Python packages for the board cannot be resolved or are incomplete."""
