"""One context manager around every stage: it names the stage in a failure, times it and shows progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edgekd.errors import EdgekdError, StageError
from edgekd_converters.errors import ConverterError
from edgekd_runtime.errors import RuntimeFault

Resource = TypeVar("Resource")


class Stages:
    """Progress of one command: silent when ``quiet`` or when standard error is not a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._live = not quiet and self._console.is_terminal
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, *, steps: int | None = None) -> Iterator[Step]:
        """Run one stage; ``steps`` is how often it will call :meth:`Step.advance`."""
        start = time.perf_counter()
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, disable=not self._live) as progress:
            task = progress.add_task(name, total=steps, note="")
            try:
                yield Step(progress, task)
            except EdgekdError:
                raise
            except (ConverterError, RuntimeFault) as error:
                failure = StageError(f"{name}: {error}")
                failure.exit_code = error.exit_code
                raise failure from error
            except MemoryError as error:
                raise StageError(f"{name}: not enough memory") from error
            if steps is None:
                progress.update(task, total=1, completed=1)
        self.seconds[name] = round(time.perf_counter() - start, 3)

    @contextmanager
    def held(self, resource: AbstractContextManager[Resource], name: str) -> Iterator[Resource]:
        """A stage that opens something which then stays open for as long as the block lasts."""
        with ExitStack() as stack:
            with self.stage(name):
                opened = stack.enter_context(resource)
            yield opened


class Step:
    """What a running stage reports to."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, note: str = "") -> None:
        """One step further; ``note`` is shown beside the bar."""
        self._progress.update(self._task, advance=1, note=note)
