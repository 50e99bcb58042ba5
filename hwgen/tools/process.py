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
        stdin: str | None = None) -> str:
    """Standard output and standard error of ``command``, as one text.

    ``env`` is added to the environment of this process. ``timeout`` in seconds.
    Raises ToolError when the program cannot be started, takes longer than ``timeout`` or does not return 0.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout, input=stdin, text=True, errors="replace",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL if stdin is None else None)
    except OSError as error:
        raise ToolError(f"{words[0]} cannot be started: {error}", where=shlex.join(words)) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{Path(words[0]).name} took more than {timeout:g} seconds", where=shlex.join(words)) from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.rstrip().splitlines()[-ERROR_LINES:])
        raise ToolError(f"{Path(words[0]).name} failed with exit code {done.returncode}\n{tail}", where=shlex.join(words))
    return done.stdout
