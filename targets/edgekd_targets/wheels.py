"""Python packages for the board, chosen and unpacked by the host's pip."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from edgekd_targets.board import Board
from edgekd_targets.cache import cached
from edgekd_targets.errors import EmulatorError, PackagesError
from edgekd_targets.sysroot import PYTHON_VERSION, dist_packages, last_lines, precompile

RECIPE_VERSION = "2"  # raise it when this file installs differently
_GLIBC_MINORS = range(17, 37)  # manylinux_2_17 up to the sysroot's glibc 2.36
_SHORT_VERSION = ".".join(PYTHON_VERSION.split(".")[:2])
_ABI = f"cp{_SHORT_VERSION.replace('.', '')}"

# pip's --platform chooses wheels for another machine, but still evaluates environment markers for this one.
# It reads them through the module `platform`, so that is where it learns about the board.
_PIP_FOR_BOARD = """
import platform, runpy, sys
machine, version = sys.argv[1:3]
del sys.argv[1:3]
platform.machine = lambda: machine
platform.python_version = lambda: version
platform.python_version_tuple = lambda: tuple(version.split("."))
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def marker_environment(board: Board) -> dict[str, str]:
    """Return the values of all environment markers on the board."""
    return {
        "implementation_name": "cpython",
        "implementation_version": PYTHON_VERSION,
        "os_name": "posix",
        "platform_machine": board.arch,
        "platform_python_implementation": "CPython",
        "platform_release": "6.1.0",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": PYTHON_VERSION,
        "python_version": _SHORT_VERSION,
        "sys_platform": "linux",
    }


def for_board(requirements: Iterable[str], board: Board, extras: Iterable[str] = ()) -> list[str]:
    """Return the requirements that apply on the board, without their markers, sorted."""
    environment = marker_environment(board)
    chosen = set()
    for text in requirements:
        requirement = _parse(text)
        marker, requirement.marker = requirement.marker, None
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)):
            chosen.add(str(requirement))
    return sorted(chosen)


def third_party(
    requirements: Iterable[str], wheels: Iterable[Path], board: Board, extras: Iterable[str] = ()
) -> list[str]:
    """Return what must be installed on the board before the project's own wheels, sorted."""
    wheels = list(wheels)
    own = {canonicalize_name(wheel.name.split("-")[0]) for wheel in wheels}
    wanted = [*requirements, *(line for wheel in wheels for line in wheel_requirements(wheel))]
    # A wheel may ask for its siblings, or for itself with an extra; those must not come from an index.
    foreign = [line for line in wanted if canonicalize_name(_parse(line).name) not in own]
    return for_board(foreign, board, extras)


def wheel_requirements(wheel: Path) -> list[str]:
    """Return the ``Requires-Dist`` lines of a wheel file, markers included."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            content = archive.read(names[0])
    except (OSError, zipfile.BadZipFile, IndexError) as error:
        raise PackagesError(f"{wheel} is not a readable wheel; build it with: pip wheel --no-deps") from error
    return [str(line) for line in message_from_bytes(content).get_all("Requires-Dist", [])]


def install_packages(board: Board, sysroot: Path, cache_dir: Path, requirements: Sequence[str]) -> Path:
    """Return a folder with third-party packages for the board, and with all that they need.

    What the board takes from Debian is in the sysroot already; pip only sees to it that the version fits.
    """
    from_debian = debian_versions(board, sysroot)

    def fill(draft: Path, final: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
            for name, version in from_debian.items():
                empty_wheel(Path(folder), name, version)
            _pip_install(board, draft, ["--find-links", folder, *requirements])
        for name, version in from_debian.items():
            shutil.rmtree(draft / f"{name}-{version}.dist-info", ignore_errors=True)
        if gaps := missing_packages(board, [draft, dist_packages(sysroot)], requirements):
            raise PackagesError(f"pip left out packages for {board.arch}: {'; '.join(gaps)}; update pip")
        precompile(board, sysroot, draft, final)

    debian = [f"{name}=={version}" for name, version in from_debian.items()]
    recipe = (RECIPE_VERSION, board.arch, PYTHON_VERSION, *debian, *requirements)
    return cached(cache_dir, "packages", recipe, fill)


def install_project(board: Board, sysroot: Path, cache_dir: Path, wheels: Sequence[Path]) -> Path:
    """Return a folder with only these wheel files: the part that changes with every commit."""

    def fill(draft: Path, final: Path) -> None:
        _pip_install(board, draft, ["--no-deps", *map(str, wheels)])
        precompile(board, sysroot, draft, final)

    contents = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels]
    return cached(cache_dir, "project", (RECIPE_VERSION, board.arch, PYTHON_VERSION, *contents), fill)


def debian_versions(board: Board, sysroot: Path) -> dict[str, str]:
    """Return the versions of the Python packages that the board takes from Debian."""
    found = {dist.name: dist.version for dist in metadata.distributions(path=[str(dist_packages(sysroot))])}
    if missing := [name for name in board.debian_python if name not in found]:
        raise EmulatorError(f"Debian's python3-{missing[0]} is not in {sysroot}; remove that folder to build it anew")
    return {name: found[name] for name in board.debian_python}


def empty_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel that holds nothing but a name and a version, for a package that is there already."""
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def missing_packages(board: Board, folders: Sequence[Path], requirements: Iterable[str]) -> list[str]:
    """Return what the board would miss in `folders`: requirements of the packages there that are not met there."""
    found = {canonicalize_name(dist.name): dist for dist in metadata.distributions(path=[*map(str, folders)])}
    needs = {"the request": for_board(requirements, board)}
    needs |= {dist.name: for_board(dist.requires or [], board) for dist in found.values()}
    gaps = []
    for owner, wanted in needs.items():
        for requirement in map(_parse, wanted):
            dist = found.get(canonicalize_name(requirement.name))
            if dist is None or not requirement.specifier.contains(dist.version, prereleases=True):
                gaps.append(f"{owner} needs {requirement}")
    return gaps


def _parse(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise PackagesError(f"{text!r} is not a valid requirement: {reason}") from error


def _pip_install(board: Board, target: Path, what: Sequence[str]) -> None:
    command = [sys.executable, "-P", "-c", _PIP_FOR_BOARD, board.arch, PYTHON_VERSION, "install", "--quiet"]
    command += ["--disable-pip-version-check", "--no-compile", "--only-binary=:all:", "--target", str(target)]
    command += ["--implementation", "cp", "--python-version", _SHORT_VERSION]
    command += [part for abi in (_ABI, "abi3", "none") for part in ("--abi", abi)]
    command += [part for platform in _platforms(board.arch) for part in ("--platform", platform)]
    result = subprocess.run([*command, *what], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise PackagesError(f"pip could not install packages for {board.arch}: {last_lines(result.stderr)}")


def _platforms(arch: str) -> list[str]:
    manylinux = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in _GLIBC_MINORS)]
    return [f"{tag}_{arch}" for tag in ("linux", *manylinux)]
