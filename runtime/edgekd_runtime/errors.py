"""The error tree of the device runtime. A message is one line: what, where, and how to mend it.

``exit_code`` is what the command line ends with; HTTP statuses are in one table in :mod:`edgekd_runtime.reply`.
"""


class RuntimeFault(Exception):
    """Root of all errors that the runtime raises on purpose."""

    exit_code = 1


class BundleError(RuntimeFault):
    """The ``.edgekd`` file cannot be used: missing, damaged, hostile, or of another version."""


class GoldenError(BundleError):
    """The model runs, but its answers differ from those recorded when it was packed."""


class TrialError(BundleError):
    """A bundle crashed or hung the child process in which it was tried."""


class SignatureError(BundleError):
    """The bundle is not signed, or not by a key that is trusted, or was changed after it was signed."""


class KeyFileError(RuntimeFault):
    """A key, token or certificate file cannot be used: missing, readable by others, or of another kind."""

    exit_code = 2


class PreprocessError(BundleError):
    """A preprocessing description is malformed."""


class BackendError(RuntimeFault):
    """No interpreter is installed, or it refuses the model."""


class MissingExtraError(RuntimeFault):
    """An optional dependency that this bundle needs is not installed."""


class ServeError(RuntimeFault):
    """The server cannot start: port taken, socket path not usable."""


class InputError(RuntimeFault):
    """The caller's input does not fit the model. The caller can mend it."""

    exit_code = 2


class MediaTypeError(InputError):
    """A raw body of a kind that the model does not take: a sound for a model of pictures."""


class ModelNotFoundError(RuntimeFault):
    """No model of that name or version is loaded."""


class BodyTooLargeError(RuntimeFault):
    """A request is larger than the server takes."""


class ClientError(RuntimeFault):
    """A server refused or gave no answer, or what was given cannot be sent.

    ``status``: as in HTTP; None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
