"""Where a bundle runs: boards as data, and ARM emulation on a developer's machine."""

from edgekd_targets.board import Board, board_names, load_board
from edgekd_targets.emulator import Emulated, build
from edgekd_targets.errors import BoardError, EmulatorError, TargetError

__all__ = [
    "Board",
    "BoardError",
    "Emulated",
    "EmulatorError",
    "TargetError",
    "board_names",
    "build",
    "load_board",
]
