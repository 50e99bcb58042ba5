"""What the commands print on, and how. Tests put other terminals in the place of ``out`` and ``err``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table
from rich.text import Text
import typer

from .. import ending
from ..errors import InputError, OutputError
from ..foreign import visible
from ..output import is_stdout


class Terminal(Console):
    """Standard output or error. Raises OutputError when it cannot be written."""

    def print(self, *objects, **options) -> None:
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            ending.silence()
            where = "standard error" if self.stderr else "standard output"
            raise OutputError(f"cannot write: {error.strerror or error}", where=where) from error


out, err = Terminal(), Terminal(stderr=True)


def folder(text: str | Path) -> Path:
    """The value of an option that names a directory to write. Raises InputError for an empty one, which would be the current directory."""
    if not str(text):
        raise InputError("the name of the directory is empty", where="option --output", hint="give a name, or leave the option out")
    return Path(text)


def result(path: Path | None) -> Path | None:
    """Of an option that takes a file to write: when it is ``-``, what people read goes to standard error."""
    if path is not None and is_stdout(path):
        if out.stderr:
            raise typer.BadParameter("only one result can go to standard output")
        out.stderr = True
    return path


def api() -> ModuleType:
    """The compiler, loaded on first use (it pulls in onnx)."""
    from .. import api as module
    return module


def table(*columns: str, rows) -> None:
    """Prints a plain table on stdout; cells are taken literally."""
    if not out.is_terminal:
        shown = [tuple(visible(str(cell)) for cell in row) for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
        for row in (columns, *shown):
            say(out, "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    grid = Table(*columns)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    out.print(grid)


def say(console: Console, message: str) -> None:
    """One message as it is: no markup, no wrapping, so that paths can be copied."""
    console.print(Text(visible(message, keep="\n\t")), soft_wrap=True)
