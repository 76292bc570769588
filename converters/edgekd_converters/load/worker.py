"""The parent's end of :mod:`edgekd_converters.load.child`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd_converters import errors
from edgekd_converters.errors import LoadError

_STDERR = "stderr.txt"


class Worker:
    """One child process; ``folder`` is its working directory, for it alone. ``trust``: it may import from here."""

    def __init__(self, model: Path, folder: Path, *, trust: bool) -> None:
        self._model = model
        self._folder = folder
        with (folder / _STDERR).open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekd_converters.load.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=folder,
                env=_environment(folder, trust=trust),
                text=True,
                start_new_session=True,  # an interrupt from the keyboard is the parent's to handle
            )

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Raises the error that the child reports, or ``LoadError`` when it dies or takes too long."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            line = self._exchange(json.dumps(request))
        finally:
            timer.cancel()
        if late.is_set() or not line.endswith("\n"):
            raise LoadError(f"{self._model}: {self._last_words(seconds if late.is_set() else None)}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise getattr(errors, reply["error"])(self._located(reply["message"]))
        return reply

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what a dead child did not read
                stream.close()  # type: ignore[union-attr]
        self._process.wait()

    def _located(self, message: str) -> str:
        """The message with the model's path as the user gave it, and once."""
        said = message.replace(str(self._model.absolute()), str(self._model))
        return said if said.startswith(str(self._model)) else f"{self._model}: {said}"

    def _exchange(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):  # it died before: what it said then is told below
            print(line, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def _last_words(self, seconds: float | None) -> str:
        if seconds is not None:
            return f"it was given up after {seconds:.0f} s"
        code = self._process.wait()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = f": {line}" if (line := self._last_line()) else ""
        return f"the libraries that open it {how}{said}; the file is damaged, or meets a bug in them"

    def _last_line(self) -> str:
        with (self._folder / _STDERR).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return next((" ".join(line.split())[:300] for line in reversed(lines) if line.strip()), "")


def _environment(folder: Path, *, trust: bool) -> dict[str, str]:
    """No logs, no graphics card, no file anywhere else; trusted code may come from where the caller stands."""
    ours = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # its rewriting of layer norm behind slices with steps corrupts the heap
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
    }
    if trust:
        ours["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path.cwd())]))
    return {**os.environ, **ours}


@contextlib.contextmanager
def start_worker(model: Path, folder: Path, *, trust: bool) -> Iterator[Worker]:
    worker = Worker(model, folder, trust=trust)
    try:
        yield worker
    finally:
        worker.close()
