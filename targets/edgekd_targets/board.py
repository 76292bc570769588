"""Boards as data: one TOML file per board in ``boards/``, read into a frozen dataclass."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import tomllib

from edgekd_targets.errors import BoardError


@dataclass(frozen=True)
class CpuInfo:
    """The identification registers and features that the kernel shows for one core."""

    implementer: int
    architecture: int
    variant: int
    part: int
    revision: int
    features: tuple[str, ...]

    def text(self, cores: int) -> str:
        """Return ``/proc/cpuinfo`` as Linux writes it on a machine of that many cores."""
        return "".join(
            f"processor\t: {core}\n"
            "BogoMIPS\t: 50.00\n"
            f"Features\t: {' '.join(self.features)}\n"
            f"CPU implementer\t: {self.implementer:#x}\n"
            f"CPU architecture: {self.architecture}\n"
            f"CPU variant\t: {self.variant:#x}\n"
            f"CPU part\t: {self.part:#x}\n"
            f"CPU revision\t: {self.revision}\n\n"
            for core in range(cores)
        )


@dataclass(frozen=True)
class Board:
    """A board as the rest of the code sees it: properties to ask, never a name to compare.

    ``channel_multiple`` is the channel count that the board's kernels like best when a model is pruned.
    ``debian_python`` names Python packages that come from Debian, because PyPI has no wheels of them for the board.
    """

    name: str
    description: str
    arch: str
    debian_arch: str
    triplet: str
    qemu: str
    qemu_cpu: str
    cores: int
    channel_multiple: int
    debian_python: tuple[str, ...]
    cpuinfo: CpuInfo


def board_names() -> tuple[str, ...]:
    """Return the names of all boards that come with this package, sorted."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _board_files()))


def load_board(name: str) -> Board:
    """Return the board of that name; raise `BoardError` if there is none or its file is malformed."""
    for file in _board_files():
        if file.name == f"{name}.toml":
            board = parse_board(file.read_text(encoding="utf-8"), where=f"boards/{file.name}")
            if board.name != name:
                raise BoardError(f"boards/{file.name}: name is {board.name!r}; call it {name!r} like its file")
            return board
    raise BoardError(f"there is no board {name!r}; choose one of: {', '.join(board_names())}")


def parse_board(text: str, where: str) -> Board:
    """Read a board from TOML; `where` names the source in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BoardError(f"{where} is not valid TOML: {error}") from error
    _check_keys(Board, data, where)
    cpu = data.pop("cpuinfo")
    _check_keys(CpuInfo, cpu, f"{where} [cpuinfo]")
    features, debian_python = tuple(cpu.pop("features")), tuple(data.pop("debian_python"))
    if data["cores"] < 1 or data["channel_multiple"] < 1:
        raise BoardError(f"{where}: cores and channel_multiple must be at least 1")
    return Board(**data, debian_python=debian_python, cpuinfo=CpuInfo(**cpu, features=features))


def _board_files() -> list[Traversable]:
    folder = resources.files("edgekd_targets").joinpath("boards")
    return [file for file in folder.iterdir() if file.name.endswith(".toml")]


_IS_OF_TYPE: Mapping[Any, Any] = {
    str: lambda value: isinstance(value, str) and value != "",
    int: lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    tuple[str, ...]: lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    CpuInfo: lambda value: isinstance(value, dict),
}


def _check_keys(kind: type[Board] | type[CpuInfo], data: Mapping[str, Any], where: str) -> None:
    """Refuse unknown, missing and mistyped keys."""
    expected = {field.name: field.type for field in fields(kind)}
    if unknown := sorted(data.keys() - expected.keys()):
        raise BoardError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(expected)}")
    if missing := sorted(expected.keys() - data.keys()):
        raise BoardError(f"{where}: key {', '.join(missing)} is missing; add it")
    for key, type_ in expected.items():
        if not _IS_OF_TYPE[type_](data[key]):
            raise BoardError(f"{where}: {key} = {data[key]!r} is not a valid value, see class {kind.__name__}")
