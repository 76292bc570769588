"""``make test-arm``: the device suite on ARM cores under QEMU, against this machine's answers to the same texts."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path

from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "customer_service"
BUILD = ROOT / "build" / "arm"
CORES = ("cortex-a53", "cortex-a72", "cortex-a76", "cortex-a7")
SENTENCES = 500


def run(*command: object) -> None:
    """Run a command; end with its exit code if it fails."""
    print("$", *command, flush=True)
    if code := subprocess.run([str(part) for part in command], check=False).returncode:
        sys.exit(code)


def demo_bundle() -> Path:
    """The bundle of ``make demo``, made now if it is not there or older than what it is made from."""
    bundle = ROOT / "build" / "demo" / "bundle" / "customer_service.edgekd"
    sources = [*EXAMPLE.iterdir(), *(ROOT / "sdk").rglob("*.py"), *(ROOT / "runtime" / "edgekd_runtime").rglob("*.py")]
    if not bundle.is_file() or any(source.stat().st_mtime > bundle.stat().st_mtime for source in sources):
        run(sys.executable, EXAMPLE / "demo.py", "--output", ROOT / "build" / "demo", "--no-serve")
    return bundle


def write_expected(bundle: Path, sentences: Path) -> Path:
    """This machine's top-1 for test sentences, which the boards must agree with."""
    engine = Engine(load_bundle(bundle))
    with sentences.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][-SENTENCES:]
    top1 = [engine.classify(text).label for text in texts]
    expected = BUILD / "expected.json"
    expected.write_text(json.dumps({"texts": texts, "top1": top1, "machine": platform.machine()}), encoding="utf-8")
    return expected


def build_wheel() -> Path:
    """The runtime's wheel, as a board would install it."""
    wheels = BUILD / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT / "runtime")
    return next(wheels.glob("*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle to test; default: the demo's, made if need be")
    parser.add_argument("--texts", type=Path, default=EXAMPLE / "eval.csv", help="CSV whose column 'text' is asked")
    parser.add_argument(
        "--cores", default=",".join(CORES), help="which boards, separated by commas; default: %(default)s"
    )
    options, pytest_arguments = parser.parse_known_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    bundle = (options.bundle or demo_bundle()).resolve()
    boards = [part for board in options.cores.split(",") for part in ("--board", board)]
    run(
        *(sys.executable, "-m", "edgekd_targets.suite", "--runtime-wheel", build_wheel(), "--extra", "fast"),
        *("--tests", ROOT / "tests" / "device", *boards),
        *(
            "--env",
            f"EDGEKD_TEST_BUNDLE={bundle}",
            "--env",
            f"EDGEKD_TEST_EXPECTED={write_expected(bundle, options.texts)}",
        ),
        *("--", "-v", "-rA", *pytest_arguments),
    )


if __name__ == "__main__":
    main()
