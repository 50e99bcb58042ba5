"""Run one command to its end; its output is kept and becomes part of the error when it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import shlex
import subprocess

from ..errors import ToolError

ERROR_LINES = 40         # of a failed command's output, shown in the error


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float | None = None,
        stdin: str | None = None, children: set[subprocess.Popen] | None = None) -> str:
    """Standard output and standard error of ``command``, as one text.

    ``env`` is added to the environment of this process. ``timeout`` in seconds. ``children`` holds the process while it runs, so that
    another thread can `stop` it.
    Raises ToolError when the program cannot be started, takes longer than ``timeout`` or does not return 0.
    """
    words = [str(word) for word in command]
    try:
        child = subprocess.Popen(words, cwd=cwd, env={**os.environ, **(env or {})}, text=True, errors="replace", stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
    except OSError as error:
        raise ToolError(f"{words[0]} cannot be started: {error}", where=shlex.join(words)) from error
    children = set() if children is None else children
    children.add(child)
    try:
        output, _ = child.communicate(stdin, timeout)
    except BaseException as error:
        child.kill()
        child.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise ToolError(f"{Path(words[0]).name} took more than {timeout:g} seconds", where=shlex.join(words)) from error
        raise
    finally:
        children.discard(child)
    if child.returncode != 0:
        tail = "\n".join(output.rstrip().splitlines()[-ERROR_LINES:])
        raise ToolError(f"{Path(words[0]).name} failed with exit code {child.returncode}\n{tail}", where=shlex.join(words))
    return output


def stop(children: set[subprocess.Popen]) -> None:
    """End what `run` holds in ``children``; those calls raise ToolError."""
    for child in list(children):
        child.terminate()
