"""A hardened systemd service for ``serve``: its unit files, and putting them in place.

Directives: systemd.exec(5), systemd.resource-control(5). The service has a user of its own that exists only while it
runs, sees the file system read-only and of people's homes only the folders that it needs, has no capability and few
system calls, and talks to nobody but this machine unless it listens for others.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd_runtime import atomic
from edgekd_runtime.errors import ServeError

UNIT_FOLDER = Path("/etc/systemd/system")
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
_SYSTEMD_RUNS = Path("/run/systemd/system")

_UNIT = """\
# Written by 'edgekd-runtime service install'; 'edgekd-runtime service uninstall' takes it away.
[Unit]
Description=edgekd-runtime ({name})
After=network.target
{activation}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=30
TimeoutStartSec=180
TimeoutStopSec=20
Restart=always
RestartSec=2
Environment=PYTHONDONTWRITEBYTECODE=1
{credentials}
# Who it is and what it may use
DynamicUser=yes
{group}RuntimeDirectory={name}
RuntimeDirectoryMode=0750
UMask=0077
MemoryMax={memory_max}
TasksMax=128
LimitCORE=0

# What it sees
ProtectSystem=strict
{homes}PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes

# What it can do
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
PrivateUsers=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{network}
[Install]
WantedBy=multi-user.target
"""

_SOCKET = """\
# Written by 'edgekd-runtime service install'; 'edgekd-runtime service uninstall' takes it away.
[Unit]
Description=edgekd-runtime ({name}), its sockets

[Socket]
{streams}
SocketMode=0660
{group}
[Install]
WantedBy=sockets.target
"""


@dataclass(frozen=True)
class Service:
    """``arguments``: of ``serve``; ``%d`` in them is the folder of the ``credentials`` (name → file).

    ``streams``: what systemd listens on for it, nothing where it listens itself. ``reads``: the files that it is given.
    ``is_local``: nobody but this machine is to reach it. ``group``: whose members may use its unix sockets.
    """

    name: str
    arguments: tuple[str, ...]
    reads: tuple[Path, ...]
    credentials: Mapping[str, Path]
    streams: tuple[str, ...]
    is_local: bool
    memory_max: str
    group: str | None

    def files(self) -> dict[str, str]:
        """File name → text of the unit files."""
        group = f"Group={self.group}\n" if self.group else ""
        unit = _UNIT.format(
            name=self.name,
            activation=f"Requires={self.name}.socket\nAfter={self.name}.socket\n" if self.streams else "",
            command=" ".join(map(_quoted, (sys.executable, "-m", "edgekd_runtime", "serve", *self.arguments))),
            credentials="".join(f"LoadCredential={name}:{path}\n" for name, path in self.credentials.items()),
            group=group,
            memory_max=self.memory_max,
            homes=self._homes(),
            network="IPAddressDeny=any\nIPAddressAllow=localhost\n" if self.is_local else "",
        )
        files = {f"{self.name}.service": unit}
        if self.streams:
            streams = "\n".join(f"ListenStream={stream}" for stream in self.streams)
            socket_group = f"SocketGroup={self.group}\n" if self.group else ""
            files[f"{self.name}.socket"] = _SOCKET.format(name=self.name, streams=streams, group=socket_group)
        return files

    def _homes(self) -> str:
        """Folders, not files: a file that is replaced to be loaded anew would not be seen through its own mount."""
        needed = [
            Path(sys.prefix),
            Path(sys.base_prefix),
            *(path if path.is_dir() else path.parent for path in self.reads),
        ]
        bound = sorted({path for path in needed if any(path.is_relative_to(folder) for folder in _HIDDEN)})
        if not bound:
            return "ProtectHome=yes\n"
        return "ProtectHome=tmpfs\n" + "".join(f"BindReadOnlyPaths={_bound(path)}\n" for path in bound)


def install(service: Service, folder: Path, *, start: bool) -> list[Path]:
    """Write the unit files, and have systemd start the service now and whenever the machine starts.

    Raises ``ServeError``. Where systemd does not run (an image that is being built) the files are written all the same.
    """
    written = []
    for name, text in service.files().items():
        try:
            atomic.write_bytes(folder / name, text.encode())
        except OSError as error:
            raise ServeError(f"{folder / name}: cannot be written: {error.strerror}; run it as root") from error
        written.append(folder / name)
    if runs_systemd():
        _systemctl("daemon-reload")
        if start:
            _systemctl("enable", "--now", written[-1].name)
            _systemctl("restart", f"{service.name}.service")
    return written


def uninstall(name: str, folder: Path) -> list[Path]:
    """Stop the service and take its unit files away. Raises ``ServeError``."""
    files = [path for path in (folder / f"{name}.socket", folder / f"{name}.service") if path.exists()]
    if not files:
        raise ServeError(f"there is no {name}.service in {folder}")
    if runs_systemd():
        _systemctl("disable", "--now", *(path.name for path in files))
    for path in files:
        try:
            path.unlink()
        except OSError as error:
            raise ServeError(f"{path}: cannot be removed: {error.strerror}; run it as root") from error
    if runs_systemd():
        _systemctl("daemon-reload")
    return files


def runs_systemd() -> bool:
    """Whether this machine was started by systemd (sd_booted(3))."""
    return _SYSTEMD_RUNS.is_dir()


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServeError(f"systemctl {' '.join(arguments)}: {why[:300]}")


def _quoted(argument: str) -> str:
    """As one word of ExecStart=, systemd.service(5); ``%d`` stands as it is at an argument's place for a file."""
    escaped = argument if "%d/" in argument else _escaped(argument)
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if any(c in " \t'\";" for c in argument) or not argument else escaped


def _bound(path: Path) -> str:
    escaped = _escaped(str(path)).replace("\\", "\\\\").replace('"', '\\"').replace(":", "\\:")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def checked(paths: Sequence[Path]) -> None:
    """Files that the service's own user must read. Raises ``ServeError``."""
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise ServeError(f"{path}: {error.strerror}") from error
        if not mode & 0o004:
            raise ServeError(f"{path}: the service's own user cannot read it; chmod o+r {path}")
