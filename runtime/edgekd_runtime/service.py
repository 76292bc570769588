"""A hardened systemd service for ``serve``: its unit files, and putting them in place.

Directives: systemd.exec(5), systemd.resource-control(5). The service has a user of its own that exists only while it
runs, sees the file system read-only and of people's homes only the folders that it needs, has no capability and few
system calls, and talks to nobody but this machine unless it listens for others.
"""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd_runtime import atomic
from edgekd_runtime.errors import ServeError

UNIT_FOLDER = Path("/etc/systemd/system")
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
_PERMISSIONS = {"gr": stat.S_IRGRP, "gx": stat.S_IXGRP, "or": stat.S_IROTH, "ox": stat.S_IXOTH}
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
{group}{runtime}UMask=0077
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
RemoveOnStop=yes
{group}
[Install]
WantedBy=sockets.target
"""


@dataclass(frozen=True)
class Service:
    """``arguments``: of ``serve``; ``%d`` in them is the folder of the ``credentials`` (name → file).

    ``streams``: what systemd listens on for it, nothing where it listens itself. ``reads``: the files that it is given.
    ``runtime``: the folder in /run for the sockets that it makes itself; it is removed when the service stops.
    ``is_local``: nobody but this machine is to reach it. ``group``: whose members may use its unix sockets.
    """

    name: str
    arguments: tuple[str, ...]
    reads: tuple[Path, ...]
    credentials: Mapping[str, Path]
    streams: tuple[str, ...]
    runtime: str | None
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
            credentials="".join(
                f"LoadCredential={name}:{_escaped(str(path))}\n" for name, path in self.credentials.items()
            ),
            group=group,
            runtime=f"RuntimeDirectory={self.runtime}\nRuntimeDirectoryMode=0750\n" if self.runtime else "",
            memory_max=self.memory_max,
            homes=self._homes(),
            network="IPAddressDeny=any\nIPAddressAllow=localhost\n" if self.is_local else "",
        )
        files = {f"{self.name}.service": unit}
        if self.streams:
            streams = "\n".join(f"ListenStream={_escaped(stream)}" for stream in self.streams)
            socket_group = f"SocketGroup={self.group}\n" if self.group else ""
            files[f"{self.name}.socket"] = _SOCKET.format(name=self.name, streams=streams, group=socket_group)
        return files

    def _homes(self) -> str:
        """Folders, not files: a file that is replaced to be loaded anew would not be seen through its own mount."""
        needed = [Path(sys.prefix), Path(sys.base_prefix), *map(_folder, self.reads)]
        bound = sorted({path for path in needed if _is_hidden(path)})
        if not bound:
            return "ProtectHome=yes\n"
        return "ProtectHome=tmpfs\n" + "".join(f"BindReadOnlyPaths={_bound(path)}\n" for path in bound)


@dataclass(frozen=True)
class _Standing:
    """What an earlier install left. ``texts``: file name → text."""

    texts: dict[str, str]
    enabled: list[str]
    active: list[str]

    def stop(self, names: Iterable[str]) -> None:
        if known := [name for name in names if name in self.enabled or name in self.active]:
            _systemctl("disable", "--now", *known)


def install(service: Service, folder: Path, *, start: bool) -> tuple[list[Path], list[Path]]:
    """Write the unit files, and have systemd start the service now and whenever the machine starts.

    Gives what was written, and what an earlier install had and this one has not. Where systemd does not run (an image
    that is being built) the files are written all the same. Raises ``ServeError``; then what stood before stands again.
    """
    if not os.access(folder, os.W_OK):
        raise ServeError(f"{folder}: cannot be written; run it as root")
    files, before = service.files(), _standing(service.name, folder)
    gone = [name for name in before.texts if name not in files]
    starts = start and runs_systemd()
    socket = f"{service.name}.socket"
    listens_anew = files.get(socket) != before.texts.get(socket)
    try:
        # A socket unit does not start beside its running service, and a running one keeps the sockets that it has
        before.stop(before.texts if starts and listens_anew else gone)
        _put(files, gone, folder)
        if starts:
            _systemctl("enable", "--quiet", list(files)[-1])
            _systemctl("restart", f"{service.name}.service")
    except ServeError as error:
        raise ServeError(f"{error}; {_put_back(before, files, folder, started=starts)}") from error
    return [folder / name for name in files], [folder / name for name in gone]


def uninstall(name: str, folder: Path) -> list[Path]:
    """Stop the service and take its unit files away. Raises ``ServeError``."""
    names = [unit for unit in _names(name) if (folder / unit).exists()]
    if not names:
        raise ServeError(f"there is no {name}.service in {folder}")
    if runs_systemd():
        _systemctl("disable", "--now", *names)
    _put({}, names, folder)
    return [folder / unit for unit in names]


def _names(name: str) -> tuple[str, str]:
    return f"{name}.socket", f"{name}.service"


def _standing(name: str, folder: Path) -> _Standing:
    texts = {}
    for unit in _names(name):
        try:
            texts[unit] = (folder / unit).read_text("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ServeError(f"{folder / unit}: cannot be read: {error}") from error
    return _Standing(texts, _those("is-enabled", texts), _those("is-active", texts))


def _those(question: str, names: Iterable[str]) -> list[str]:
    """Of the units ``names`` those that are so, or become so."""
    if not runs_systemd():
        return []
    answers = {name: _asked(question, name) for name in names}
    return [name for name, done in answers.items() if not done.returncode or done.stdout.strip() == "activating"]


def _put(files: Mapping[str, str], gone: Iterable[str], folder: Path) -> None:
    """Write ``files`` (name → text), remove those that are ``gone``, and tell systemd. Raises ``ServeError``."""
    for name in gone:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise ServeError(f"{folder / name}: cannot be removed: {error.strerror}; run it as root") from error
    for name, text in files.items():
        try:
            atomic.write_bytes(folder / name, text.encode())
        except OSError as error:
            raise ServeError(f"{folder / name}: cannot be written: {error.strerror}; run it as root") from error
    if runs_systemd():
        _systemctl("daemon-reload")


def _put_back(before: _Standing, files: Collection[str], folder: Path, *, started: bool) -> str:
    """After a failed install of ``files``; says what stands now."""
    if started:
        _asked("disable", "--now", *files)  # fails where it had not come that far
    try:
        _put(before.texts, [name for name in files if name not in before.texts], folder)
        if before.enabled:
            _systemctl("enable", "--quiet", *before.enabled)
        if before.active:
            _systemctl("start", *before.active)
    except ServeError as error:
        return f"and what stood before could not be put back: {error}"
    return "what stood before stands again" if before.texts else "nothing is installed"


def runs_systemd() -> bool:
    """Whether this machine was started by systemd (sd_booted(3))."""
    return _SYSTEMD_RUNS.is_dir()


def _systemctl(*arguments: str) -> None:
    done = _asked(*arguments)
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServeError(f"systemctl {' '.join(arguments)}: {why[:300]}")


def _asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def _quoted(argument: str) -> str:
    """As one word of ExecStart=, systemd.service(5); ``%d/`` at its start, where no path has it, stands as it is."""
    escaped = argument if argument.startswith("%d/") else _escaped(argument)
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if any(c in " \t'\";" for c in argument) or not argument else escaped


def _bound(path: Path) -> str:
    escaped = _escaped(str(path)).replace("\\", "\\\\").replace('"', '\\"').replace(":", "\\:")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _folder(path: Path) -> Path:
    """What the service must see of the file system to read ``path``, now and when it is replaced."""
    return path if path.is_dir() else path.parent


def _is_hidden(folder: Path) -> bool:
    """Whether the service sees of it, and of what is above it, only what is bound there."""
    return any(folder.is_relative_to(hidden) for hidden in _HIDDEN)


def checked(paths: Sequence[Path], group: str | None = None) -> None:
    """Absolute ``paths`` that the service's own user, as a member of ``group``, must read. Raises ``ServeError``."""
    gid = _gid(group)
    for path in paths:
        folder = _folder(path)
        for above in [folder] if _is_hidden(folder) else [*reversed(folder.parents), folder]:
            _check(path, above, "x", gid)
        _check(path, path, "r", gid)


def _check(path: Path, passed: Path, permission: str, gid: int | None) -> None:
    """``passed`` is on the way to ``path``, or is it."""
    try:
        status = passed.stat()
    except OSError as error:
        raise ServeError(f"{path}: {error.strerror}") from error
    who = "g" if status.st_gid == gid else "o"
    if not status.st_mode & _PERMISSIONS[who + permission]:
        raise ServeError(f"{path}: the service's own user cannot read it; chmod {who}+{permission} {passed}")


def _gid(group: str | None) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid if group else None
    except KeyError:  # of the machine for which an image is being built
        return None
