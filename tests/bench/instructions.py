"""``make bench-instructions``: instructions per inference of ``.tflite`` models on emulated ARM cores.

They are counted by QEMU, not estimated, and repeat almost exactly. They are no cycles: QEMU models neither caches nor
how many instructions a core issues at once. What one core's model A and B cost relative to each other, they do tell.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypedDict

from common import SHARED, finish, need
from edgekd_targets.board import load_board
from edgekd_targets.emulator import Emulated, build
from edgekd_targets.errors import EmulatorError, TargetError, ToolMissingError
from edgekd_targets.sysroot import last_lines

HERE = Path(__file__).parent
BOARDS = ("cortex-a53", "cortex-a76")
INVOKES = 21
_TIMEOUT_S = 600


class Count(TypedDict):
    """``instructions``: the median of the invokes. ``spread``: greatest minus least, relative to it."""

    instructions: int
    spread: float


def count(models: Sequence[Path], boards: Sequence[str] = BOARDS) -> dict[str, list[Count]]:
    """Board → what one ``invoke()`` of each model costs there, with one thread.

    Each model runs in a process of its own. Raises ``TargetError`` when something that this needs is not here.
    """
    emulated = [
        build(load_board(name), requirements=[f"ai-edge-litert=={version('ai-edge-litert')}"]) for name in boards
    ]
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        plugin = _build_plugin(Path(folder))
        counter = Path(folder) / "counter"
        return {one.board.name: [_count(one, model, plugin, counter) for model in models] for one in emulated}


def _build_plugin(folder: Path) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        raise ToolMissingError("gcc is not installed; run: apt-get install gcc")
    plugin = folder / "count_instructions.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(plugin), str(HERE / "count_instructions.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulatorError(f"gcc cannot build the plugin: {last_lines(done.stderr)}")
    return plugin


def _count(emulated: Emulated, model: Path, plugin: Path, counter: Path) -> Count:
    counter.write_bytes(bytes(8))
    done = emulated.run(
        ["-P", str(HERE / "invoke_counted.py"), str(model), str(counter), str(INVOKES)],
        # QEMU takes this for its option -plugin.
        {"QEMU_PLUGIN": f"file={plugin},counter={counter}", "PYTHONHASHSEED": "0"},
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise EmulatorError(f"{model} cannot be counted on {emulated.board.name}: {last_lines(done.stderr)}")
    told = json.loads(done.stdout)
    if not told["delegated"]:
        raise EmulatorError(f"XNNPACK does not run {model} on {emulated.board.name}: the count would mislead")
    middle = int(median(told["counts"]))
    return Count(instructions=middle, spread=(max(told["counts"]) - min(told["counts"])) / middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="models to compare to the first; default: MLPerf Tiny's")
    options = parser.parse_args()
    models = options.models or [need(SHARED / "mlperf_tiny_resnet8") / "pretrainedResnet_quant.tflite"]
    for model in models:
        if not model.is_file():
            parser.error(f"{model} is not there")
    try:
        counts = count(models)
    except TargetError as error:
        print(f"skipped: {error}")
        sys.exit(0)
    rows = []
    for board, costs in counts.items():
        for model, cost in zip(models, costs, strict=True):
            ratio = cost["instructions"] / costs[0]["instructions"]
            figures = f"{cost['instructions'] / 1e6:.3f}", f"{cost['spread']:.3%}", f"{ratio:.3f}"
            rows.append((f"{board} {model.name}", *figures))
    result = {"invokes": INVOKES, "models": [str(model) for model in models], "counts": counts}
    finish("instructions", result, rows, ("1 thread", "M instructions", "spread", "to the first"))


if __name__ == "__main__":
    main()
