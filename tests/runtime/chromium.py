"""A headless Chromium, driven over its debugging pipe: no driver and no package is needed.

https://chromedevtools.github.io/devtools-protocol/; ``--remote-debugging-pipe``: messages of JSON end with NUL, to the
browser on descriptor 3, from it on 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_TIMEOUT_S = 60.0
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    *(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
    ),
)

# The browser wants its pipe on descriptors 3 and 4.
_START = """
import fcntl, os, sys
held = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for number, fd in enumerate(held):
    os.dup2(fd, 3 + number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One page. ``complaints``: errors and warnings that the page or its policy gave rise to."""

    def __init__(self, folder: Path, language: str = "en-US", width: int = 1200, height: int = 900) -> None:
        assert PROGRAM is not None
        to_read, self._to = os.pipe()
        self._from, from_write = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={folder}", f"--lang={language}", f"--accept-lang={language}"]
        command = [sys.executable, "-c", _START, str(to_read), str(from_write), PROGRAM, *flags, "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=[to_read, from_write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        self._buffer, self._last = b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.look(width, height)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """As a window of that many pixels on a system with a ``light`` or ``dark`` theme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression; a promise is waited for."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        told = self.send("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in told:
            raise AssertionError(told["exceptionDetails"]["exception"].get("description"))
        return told["result"].get("value")

    def until(self, expression: str) -> Any:
        """The expression's value once it is true."""
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never became true: {expression}\n{self.complaints}")

    def screenshot(self, path: Path) -> None:
        told = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def send(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the protocol."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._message()
            if said.get("id") == self._last:
                assert "error" not in said, said
                return said["result"]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        told = said.get("params", {})
        if said.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        if said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], _TIMEOUT_S)[0], "the browser says nothing"
            got = os.read(self._from, 1 << 20)
            assert got, "the browser has ended"
            self._buffer += got
        message, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
