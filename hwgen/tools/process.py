"""Starts outside programs, each with its descendants in a process group of its own, so that they end together and none is left behind.

`run` one command to its end; its output is kept and becomes part of the error when it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import shlex
import signal
import subprocess
import threading
import time

from ..errors import ToolError
from ..output import work_folder

ERROR_LINES = 40         # of a failed command's output, shown in the error
GRACE_SECONDS = 2.0      # for a compiler to remove its files after SIGTERM


class Children:
    """Processes that one thread may `stop` while others run them."""

    def __init__(self):
        self._lock, self._running, self._stopped = threading.Lock(), set(), False

    def add(self, child: subprocess.Popen) -> None:
        with self._lock:
            self._running.add(child)
            late = self._stopped
        if late:
            _signal(child, signal.SIGTERM)

    def discard(self, child: subprocess.Popen) -> None:
        with self._lock:
            self._running.discard(child)

    def stop(self) -> None:
        """End all, and each that is added later; those calls of `run` raise ToolError."""
        with self._lock:
            self._stopped, running = True, list(self._running)
        for child in running:
            _signal(child, signal.SIGTERM)


@contextmanager
def started(words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL,
            children: Children | None = None) -> Iterator[subprocess.Popen]:
    """The running process, its standard output and error in one pipe; it and its descendants have ended after the block.

    ``env`` is added to the environment of this process. Its temporary files go to a folder that is removed afterwards. Raises ToolError
    when it cannot be started.
    """
    with work_folder("hwgen_tool_") as temporary:
        try:
            child = subprocess.Popen(words, cwd=cwd, env={**os.environ, "TMPDIR": str(temporary), **(env or {})}, text=True, errors="replace",
                                     encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=stdin, start_new_session=True)
        except OSError as error:
            raise ToolError(f"{words[0]} cannot be started: {error}", where=shlex.join(words)) from error
        try:
            if children is not None:
                children.add(child)
            yield child
        finally:
            _end(child)
            if children is not None:
                children.discard(child)


def _signal(child: subprocess.Popen, number: int) -> None:
    """To the whole group. A group that is gone is good."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _end(child: subprocess.Popen) -> None:
    """Ends a process and its descendants: politely first, since compilers then remove their files."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        limit = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < limit and os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.01)                # not yet collected, so that its number stays that of its group
        _signal(child, signal.SIGKILL)
        child.wait()
    for stream in (child.stdout, child.stdin):
        if stream is not None:
            stream.close()


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float | None = None,
        stdin: str | None = None, children: Children | None = None) -> str:
    """Standard output and standard error of ``command``, as one text.

    ``env`` is added to the environment of this process. ``timeout`` in seconds. ``children`` holds the process while it runs, so that
    another thread can stop it.
    Raises ToolError when the program cannot be started, takes longer than ``timeout`` or does not return 0.
    """
    words = [str(word) for word in command]
    with started(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, children=children) as child:
        try:
            output, _ = child.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{Path(words[0]).name} took more than {timeout:g} seconds", where=shlex.join(words)) from error
    if child.returncode != 0:
        tail = "\n".join(output.rstrip().splitlines()[-ERROR_LINES:])
        raise ToolError(f"{Path(words[0]).name} failed with exit code {child.returncode}\n{tail}", where=shlex.join(words))
    return output
