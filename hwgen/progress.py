"""Progress of long work: what the library calls, and what the commands show for it.

A library function takes ``progress: Progress | None`` and calls ``progress(stage, done, total)`` as it goes: ``stage`` is a
short text ("calibrate", "compile C++"), ``total`` 0 when it is not known. A call with another stage ends the one before.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress as RichProgress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

Progress: TypeAlias = Callable[[str, float, float], None]

MIN_SECONDS = 1.0        # a stage shorter than this shows no bar


class _LongOnly(RichProgress):
    """Shows a task once it has taken `MIN_SECONDS`."""

    def get_renderables(self):
        yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0.0) >= MIN_SECONDS])


class Bars:
    """Context manager and `Progress`: on a terminal one bar a stage, drawn by a thread of its own, so that a stage that blocks shows too.

    Elsewhere (a log, a notebook) one line a stage: its name when it starts, its time when it ends.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._lines = not self._console.is_terminal
        self._bars = _LongOnly(SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), BarColumn(),
                               TextColumn("{task.fields[count]}"), TimeElapsedColumn(),
                               console=self._console, refresh_per_second=4)
        self._stage: str | None = None
        self._task: TaskID | None = None
        self._start = 0.0

    def __enter__(self) -> Self:
        if not self._lines:
            self._bars.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._finish()
        elif self._stage is not None:
            self._write("\n")
        if not self._lines:
            self._bars.stop()

    def __call__(self, stage: str, done: float = 0, total: float = 0) -> None:
        if stage != self._stage:
            self._finish()
            self._stage, self._start = stage, time.monotonic()
            self._write(f"{stage} …")
            if not self._lines:
                self._task = self._bars.add_task(stage, total=None, count="")
        if total and self._task is not None:
            self._bars.update(self._task, completed=done, total=total, count=f"{done:,.0f} / {total:,.0f}")

    def _finish(self) -> None:
        if self._task is not None:
            total = self._bars.tasks[-1].total or 1
            self._bars.update(self._task, completed=total, total=total)
            self._bars.stop_task(self._task)
        if self._stage is not None:
            self._write(f" {time.monotonic() - self._start:.1f} s\n")
        self._stage = self._task = None

    def _write(self, text: str) -> None:
        if self._lines:
            self._console.file.write(text)
            self._console.file.flush()
