"""The board's Debian: libraries and Python, unpacked without root and without running any of it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from edgekd_targets.board import Board
from edgekd_targets.cache import cached
from edgekd_targets.errors import EmulatorError, ToolMissingError

SUITE = "bookworm"
PYTHON_VERSION = "3.11.2"  # what SUITE carries
PYTHON = "python3.11"
PACKAGES = ("python3", "libstdc++6", "libgcc-s1", "ca-certificates")
RECIPE_VERSION = "2"  # raise it when this file lays out the sysroot differently
APT_PACKAGES = "qemu-user mmdebstrap"
# Not part of the board: the guest sees the host's /dev and /tmp, and the rest is about this machine.
_REMOVED = ("dev", "tmp", "var", "etc/apt", "etc/fstab", "etc/hostname", "etc/resolv.conf")


def find_tool(name: str) -> str:
    """Return the path of a program, or raise an error that says how to install it."""
    path = shutil.which(name)
    if path is None:
        raise ToolMissingError(f"{name} is not installed; run: apt-get install {APT_PACKAGES}")
    return path


def build_sysroot(board: Board, cache_dir: Path) -> Path:
    """Return the sysroot for the board's architecture, building it the first time (about 10 s, 90 MB)."""
    recipe = (RECIPE_VERSION, SUITE, board.debian_arch, *_packages(board))
    return cached(cache_dir, "sysroot", recipe, lambda draft, final: _fill(board, draft, final))


def dist_packages(sysroot: Path) -> Path:
    """Return the folder with the Python packages that came from Debian."""
    return sysroot / "usr" / "lib" / "python3" / "dist-packages"


def _packages(board: Board) -> tuple[str, ...]:
    return (*PACKAGES, *(f"python3-{name}" for name in board.debian_python))


def _fill(board: Board, draft: Path, final: Path) -> None:
    mirrors = _mirrors()
    command = [
        find_tool("mmdebstrap"),
        # "extract" runs nothing of what it unpacks, so no mode that needs privileges is called for.
        "--mode=chrootless",
        "--variant=extract",
        f"--architectures={board.debian_arch}",
        f"--include={','.join(_packages(board))}",
        SUITE,
        str(draft),
        *(["-"] if mirrors else []),  # by stdin: a mirror's address may hold a password
    ]
    result = subprocess.run(command, capture_output=True, text=True, input="\n".join(mirrors))
    if result.returncode != 0:
        raise EmulatorError(
            f"mmdebstrap could not unpack Debian {SUITE} for {board.debian_arch}: "
            f"{last_lines(result.stderr)} (check that apt-get update works here "
            "and that debian-archive-keyring is installed)"
        )
    for name in _REMOVED:
        _remove(draft / name)
    _link_alternatives(draft / "usr" / "lib" / board.triplet)
    for stdlib in (f"usr/lib/{PYTHON}", "usr/lib/python3"):
        precompile(board, draft, draft / stdlib, final / stdlib)


def _link_alternatives(libraries: Path) -> None:
    """Do what update-alternatives would have done for numpy: libblas.so.3 → blas/libblas.so.3, and lapack's."""
    for library in libraries.glob("*/lib*.so.3"):
        link = libraries / library.name
        if library.name == f"lib{library.parent.name}.so.3" and not link.exists():
            link.symlink_to(library.relative_to(libraries))


def _mirrors() -> list[str]:
    """Return this machine's own sources for SUITE; none means that mmdebstrap uses its default.

    Without its updates: nothing here faces a network, and mirrors of theirs are out of step at times.
    """
    command = ["apt-get", "indextargets", "--no-release-info", "Created-By: Packages"]
    command += ["--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"]
    if shutil.which(command[0]) is None:
        return []
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return sorted({line for line in lines if line.split()[2:3] == [SUITE]})


def precompile(board: Board, sysroot: Path, source: Path, final: Path) -> None:
    """Write the .pyc files below `source`, which will be moved to `final`.

    They are worth it: compiling under emulation at every first import takes seconds.
    """
    python = str(sysroot / "usr" / "bin" / PYTHON)
    guest = [board.qemu, "-cpu", board.qemu_cpu, "-L", str(sysroot), python]
    options = ["-q", "-j", "0", "-s", str(source), "-p", str(final)]
    command = [*(_host_python() or guest), "-m", "compileall", *options, str(source)]
    # Some packages carry files that are no valid Python (templates, tests): those stay uncompiled.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _host_python() -> list[str] | None:
    """Return a Python of this machine that writes the same .pyc format as the board's."""
    tag = PYTHON.replace("python", "cpython-").replace(".", "")
    if sys.implementation.cache_tag == tag:
        return [sys.executable]
    found = shutil.which(PYTHON)
    if found is None:
        return None
    # A version manager's shim may be found and yet not run.
    probe = subprocess.run(
        [found, "-c", "import sys; print(sys.implementation.cache_tag)"], capture_output=True, text=True
    )
    return [found] if probe.stdout.strip() == tag else None


def last_lines(text: str, count: int = 3) -> str:
    """Return the end of a program's output on one line, without passwords, for an error message."""
    text = re.sub(r"://[^/@\s]+@", "://", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("e:", "error:"))]
    return " / ".join((errors or lines)[-count:]) or "it said nothing"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
