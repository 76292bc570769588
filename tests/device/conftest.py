"""This folder also runs inside a board's sysroot, where only edgekd-runtime, its dependencies and pytest exist.

So nothing here imports more than the standard library, numpy, pytest and edgekd_runtime. The bundle under test is
``$EDGEKD_TEST_BUNDLE``, or, where the developer's tool is installed, one that is trained for the occasion.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd_runtime.bundle import Bundle, load_bundle
from edgekd_runtime.engine import Engine

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

_BUILD_TIMEOUT_S = 600
_CLI_TIMEOUT_S = 180  # a process takes seconds to start under QEMU, much more where others work too
_MAKE_BUNDLE = Path(__file__).with_name("make_bundle.py")


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real ``.edgekd`` file of a text classifier."""
    if given := os.environ.get("EDGEKD_TEST_BUNDLE"):
        assert Path(given).is_file(), f"$EDGEKD_TEST_BUNDLE is {given!r}, which is not a file"
        return Path(given).resolve()
    if importlib.util.find_spec("edgekd") is None:
        pytest.fail("no bundle to test: set $EDGEKD_TEST_BUNDLE, or install edgekd so that one can be made")
    folder = tmp_path_factory.getbasetemp() / "edgekd-test-bundle"
    done = folder / "path.txt"  # tests/runtime has its own copy of this fixture and shares the bundle
    if not done.exists():
        made = subprocess.run(
            [sys.executable, str(_MAKE_BUNDLE), str(folder)], capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S
        )
        if made.returncode != 0:
            pytest.fail(f"{_MAKE_BUNDLE.name} cannot make a bundle to test:\n{made.stdout}{made.stderr}")
        done.write_text(made.stdout.splitlines()[-1])
    return Path(done.read_text())


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="session")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle)


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """``edgekd-runtime ARGUMENTS`` as a process. By module: console scripts name an interpreter of another machine."""
    folder = tmp_path_factory.mktemp("cwd")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekd_runtime.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_CLI_TIMEOUT_S,
            cwd=folder,
        )

    return run
