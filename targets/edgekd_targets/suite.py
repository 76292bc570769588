"""Run a folder of tests on emulated boards: ``python -m edgekd_targets.suite --help``."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from edgekd_targets.board import board_names, load_board
from edgekd_targets.emulator import DEFAULT_CACHE_DIR, Emulated, build
from edgekd_targets.errors import TargetError


def pytest_args(tests: Path, extra: Sequence[str]) -> list[str]:
    """Return the board Python's arguments that run pytest on `tests` and on nothing else of the project.

    The project's own pytest settings are for the host, where other plugins are installed and the sources
    are importable; on the board only the installed wheel may be seen. A pytest.ini beside the tests counts.
    """
    config = tests / "pytest.ini"
    return [
        *("-P", "-m", "pytest"),
        *("-c", str(config) if config.is_file() else os.devnull),
        f"--rootdir={tests}",
        *("-p", "no:cacheprovider"),
        str(tests),
        *extra,
    ]


def run_suite(
    emulated: Emulated, tests: Path, env: dict[str, str], extra: Sequence[str], timeout: float | None
) -> bool:
    """Run the tests on one board, their output going to this process's, and tell whether all passed."""
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env}
    result = emulated.run(pytest_args(tests, extra), env, timeout, capture=False)
    return result.returncode == 0


def _parse_env(context: click.Context, option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if not pair.partition("=")[0] or "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True)


@click.command()
@click.option("--runtime-wheel", required=True, type=_FILE, help="The wheel under test.")
@click.option("--extra", "extras", multiple=True, help="An extra of the wheel to install with it.")
@click.option("--require", "requirements", multiple=True, help="A further package that the tests need.")
@click.option("--tests", required=True, type=_FOLDER, help="The folder of tests.")
@click.option("--board", "boards", required=True, multiple=True, help=f"One of: {', '.join(board_names())}.")
@click.option("--env", multiple=True, metavar="KEY=VALUE", callback=_parse_env, help="Set for the tests.")
@click.option("--timeout", type=float, help="Seconds that the tests may take on one board.")
@click.option("--cache-dir", type=click.Path(path_type=Path), default=DEFAULT_CACHE_DIR, show_default=True)
@click.argument("pytest_arguments", metavar="[-- PYTEST_ARGUMENTS]", nargs=-1, type=click.UNPROCESSED)
def main(
    runtime_wheel: Path,
    extras: Sequence[str],
    requirements: Sequence[str],
    tests: Path,
    boards: Sequence[str],
    env: dict[str, str],
    timeout: float | None,
    cache_dir: Path,
    pytest_arguments: Sequence[str],
) -> None:
    """Install a wheel on emulated boards and run a folder of tests on each."""
    failed = []
    try:
        for board in [load_board(name) for name in boards]:
            start = time.monotonic()
            emulated = build(
                board,
                cache_dir=cache_dir,
                requirements=["pytest", *requirements],
                wheels=[runtime_wheel],
                extras=extras,
            )
            click.echo(f"{board.name}: built in {time.monotonic() - start:.1f} s, running {tests}")
            start = time.monotonic()
            passed = run_suite(emulated, tests, env, pytest_arguments, timeout)
            click.echo(f"{board.name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - start:.1f} s")
            failed += [] if passed else [board.name]
    except TargetError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    if failed:
        click.echo(f"error: tests failed on {', '.join(failed)}", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
