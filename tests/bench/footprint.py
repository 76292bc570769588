"""``make bench-footprint``: memory while serving, cold start to first answer, size of a device's environment."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, RawClient, finish, serving

INSTALLS = {"edgekd-runtime": "", "edgekd-runtime[fast]": "[fast]"}
QUESTION = "where is my parcel?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "build" / "demo" / "bundle" / "customer_service.edgekd"
    parser.add_argument("--bundle", type=Path, default=default, help="bundle to serve; 'make demo' writes the default")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if not options.bundle.is_file():
        parser.error(f"{options.bundle} is not there; run 'make demo' first")
    figures = {name: measure(f"{ROOT / 'runtime'}{extra}", options) for name, extra in INSTALLS.items()}
    rows = [row for name, one in figures.items() for row in table(name, one)]
    finish("footprint", {"runs": options.runs, **figures}, rows, ("", "median"))


def measure(requirement: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of the runtime as pip installs it by ``requirement``."""
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as folder:
        python, packages, installed = install(Path(folder), requirement)
        cold, resident = [], []
        for _ in range(options.runs):
            seconds, memory = start_and_ask(python, options.bundle)
            cold.append(seconds)
            resident.append(memory)
    return {
        "resident_mb": statistics.median(resident) / 1e6,
        "cold_start_s": statistics.median(cold),
        "cold_start_range_s": [min(cold), max(cold)],
        "environment_mb": installed / 1e6,
        "packages": packages,
    }


def table(name: str, figures: dict[str, Any]) -> list[tuple[str, str]]:
    low, high = figures["cold_start_range_s"]
    return [
        (f"{name}: resident memory while serving", f"{figures['resident_mb']:.1f} MB"),
        (f"{name}: cold start to first answer", f"{figures['cold_start_s']:.2f} s ({low:.2f}–{high:.2f})"),
        (
            f"{name}: installed environment",
            f"{figures['environment_mb']:.0f} MB in {len(figures['packages'])} packages",
        ),
    ]


def install(folder: Path, requirement: str) -> tuple[Path, list[str], int]:
    """A virtual environment with the runtime alone, as on a device: (its Python, packages, bytes they take)."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    bare = bytes_below(folder)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", requirement], check=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, stdout=subprocess.PIPE)
    packages = [entry["name"] for entry in json.loads(listed.stdout) if entry["name"] not in ("pip", "setuptools")]
    return python, packages, bytes_below(folder) - bare


def bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def start_and_ask(python: Path, bundle: Path) -> tuple[float, int]:
    """(seconds from starting the process to the first answer, bytes resident after 200 answers)."""
    start = time.perf_counter()
    with serving(bundle, python=str(python)) as (server, port):
        name = bundle.stem
        client = RawClient(port, f"/v1/models/{name}:classify")
        request = client.request(QUESTION)
        client.send(request)
        seconds = time.perf_counter() - start
        for _ in range(200):
            client.send(request)
        status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    return seconds, 1024 * int(status.split("VmRSS:")[1].split()[0])


if __name__ == "__main__":
    main()
