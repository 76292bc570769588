"""The error tree of the developer's tool. A message is one line: what, where, and how to mend it.

``exit_code``: 1 failed, 2 usage (bad arguments or data), 3 a gate was not met.
"""


class EdgekdError(Exception):
    """Root of all errors that the tool raises on purpose."""

    exit_code = 1


class UsageError(EdgekdError):
    """Arguments that do not go together, or a file that is not there."""

    exit_code = 2


class DataError(UsageError):
    """A data file that cannot be used as it is."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""


class TeacherError(EdgekdError):
    """The teacher cannot be loaded or run."""


class TrainingError(EdgekdError):
    """Training diverged."""


class StageError(EdgekdError):
    """A stage of the work failed; the message names it."""


class GateError(EdgekdError):
    """The result is worse than the caller allows. Nothing was written."""

    exit_code = 3
