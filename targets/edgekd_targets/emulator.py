"""A board under QEMU: the cross venv whose ``bin/python3`` looks like any Python and runs as the board's.

<cache>/sysroot-…    Debian for the architecture
<cache>/packages-…   third-party packages
<cache>/project-…    the project's own wheels
<cache>/core-…       root/: what QEMU lays over the host's file system, with this core's /proc/cpuinfo
                     venv/: bin/python3, and a .pth file that names the folders of packages
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekd_targets.board import Board
from edgekd_targets.cache import cached, prune
from edgekd_targets.errors import EmulatorError
from edgekd_targets.sysroot import PYTHON, PYTHON_VERSION, build_sysroot, dist_packages, find_tool, last_lines
from edgekd_targets.wheels import install_packages, install_project, third_party

RECIPE_VERSION = "2"  # raise it when this file lays out the root or the venv differently
DEFAULT_CACHE_DIR = Path("~/.cache/edgekd/arm")
_LINKED = ("usr", "lib", "etc")
# These would mix the host's packages and libraries into the guest.
_HOST_ONLY = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Emulated:
    """A board that runs Python programs on this machine."""

    board: Board
    sysroot: Path
    root: Path
    venv: Path

    @property
    def python(self) -> Path:
        """The board's Python, to be started like any program."""
        return self.venv / "bin" / "python3"

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        *,
        cwd: Path | None = None,
        capture: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run the board's Python with these arguments; `env` is added to this process's environment.

        With ``capture=False`` the output goes where this process's own goes. `timeout` is in seconds.
        """
        try:
            return subprocess.run(
                [self.python, *args],
                env=self._environment(env),
                timeout=timeout,
                cwd=cwd,
                capture_output=capture,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise EmulatorError(
                f"{shlex.join(map(str, args))} did not end within {timeout:g} s on {self.board.name}; "
                "emulation is slow, so give it a longer timeout"
            ) from error

    def popen(
        self,
        args: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | None = None,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start the board's Python with these arguments and return at once."""
        return subprocess.Popen(
            [self.python, *args],
            env=self._environment(env),
            cwd=cwd,
            stdout=stdout,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
        )

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in _HOST_ONLY}
        return kept | dict(extra or {})


def build(
    board: Board,
    *,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    requirements: Sequence[str],
    wheels: Sequence[Path] = (),
    extras: Sequence[str] = (),
) -> Emulated:
    """Return the emulated board with these packages installed; what is in `cache_dir` already is used again.

    `wheels` are the project's own files; their requirements, and those of their `extras`, are added to
    `requirements`. Environment markers are those of the board, not of this machine.
    """
    qemu = find_tool(board.qemu)
    cache_dir = cache_dir.expanduser().resolve()
    wanted = third_party(requirements, wheels, board, extras)
    sysroot = build_sysroot(board, cache_dir)
    folders = [install_packages(board, sysroot, cache_dir, wanted)]
    if wheels:
        folders.insert(0, install_project(board, sysroot, cache_dir, wheels))
    if board.debian_python:
        folders.append(dist_packages(sysroot))
    recipe = (RECIPE_VERSION, qemu, repr(board), sysroot.name, *(str(folder) for folder in folders))
    core = cached(cache_dir, "core", recipe, lambda draft, final: _fill(board, qemu, sysroot, folders, draft, final))
    prune(cache_dir)
    emulated = Emulated(board=board, sysroot=sysroot, root=core / "root", venv=core / "venv")
    _check_runs(emulated)
    return emulated


def launcher(board: Board, qemu: str, sysroot: Path, core: Path) -> str:
    """Return the host shell script that stands for the board's Python.

    It gives itself as argv[0], so ``sys.executable``, subprocess and multiprocessing come back to it.
    """
    argv0 = core / "venv" / "bin" / "python3"
    python = sysroot / "usr" / "bin" / PYTHON
    command = [qemu, "-cpu", board.qemu_cpu, "-0", argv0, "-L", core / "root", python]
    return (
        "#!/bin/sh\n"
        "# More threads than this machine has cores only slow emulation down.\n"
        'export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"\n'
        f'exec {shlex.join(map(str, command))} "$@"\n'
    )


def _fill(board: Board, qemu: str, sysroot: Path, folders: Sequence[Path], draft: Path, final: Path) -> None:
    """Write the per-core root and the cross venv."""
    root = draft / "root"
    (root / "proc").mkdir(parents=True)
    # QEMU shows the host's own cpuinfo otherwise, on which LiteRT crashes. No /sys here: the host's must show
    # through, or XNNPACK is silently left out.
    (root / "proc" / "cpuinfo").write_text(board.cpuinfo.text(board.cores))
    for name in _LINKED:
        (root / name).symlink_to(Path("..", "..", sysroot.name, name))

    venv = draft / "venv"
    site_packages = venv / "lib" / PYTHON / "site-packages"
    site_packages.mkdir(parents=True)
    (site_packages / "edgekd.pth").write_text("".join(f"{folder}\n" for folder in folders))
    home = sysroot / "usr" / "bin"
    (venv / "pyvenv.cfg").write_text(f"home = {home}\nversion = {PYTHON_VERSION}\n")
    (venv / "bin").mkdir()
    python = venv / "bin" / "python3"
    python.write_text(launcher(board, qemu, sysroot, final))
    python.chmod(0o755)
    (venv / "bin" / "python").symlink_to("python3")


def _check_runs(emulated: Emulated) -> None:
    """Raise `EmulatorError` unless the board's Python starts and is of the board's architecture."""
    result = emulated.run(["-c", "import os; print(os.uname().machine)"], timeout=60)
    if result.stdout.strip() != emulated.board.arch:
        raise EmulatorError(
            f"the Python of {emulated.board.name} does not start: {last_lines(result.stderr)}; "
            f"remove {emulated.venv.parent} and {emulated.sysroot} to build them anew"
        )
