"""Where results are written: a build directory appears whole or not at all, single files are replaced in one step.

    with OutputDir("build") as out:
        out.write("rtl/top.v", text)             # text or bytes
        out.write("model.npz", data)
        out.manifest(config=config.to_dict())    # further keys of manifest.json
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import hashlib
import json
import os
from pathlib import Path, PurePosixPath
import shutil
import sys
import tempfile
from typing import Self

import numpy as np

from . import __version__
from .errors import OutputError

GENERATOR = "hwgen"
MANIFEST = "manifest.json"
OWN_KEYS = ("generator", "version", "files")
STDOUT = ("-", "/dev/stdout")     # for every option that takes a file to write


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class OutputDir:
    """A build directory under construction.

    Files go to a temporary directory beside the target, which takes the target's name when the block ends without an
    exception; otherwise it is removed and the target is as it was. An earlier hwgen build at the target is replaced: a file
    whose content is the same keeps its modification time, and files hwgen did not write (objects compiled there, waveforms)
    stay, so make rebuilds only what changed.

    Raises OutputError when the target is a file, a directory that holds something else, or not writable. core: it is for a single core
    (`hwgen.cores`), not for a network; neither replaces the other.
    """

    def __init__(self, path: str | os.PathLike, core: bool = False):
        self.target, self.core = Path(path).resolve(), core
        self.work: Path | None = None
        self._extra: dict = {}

    def __enter__(self) -> Self:
        check_target(self.target, self.core)
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.work = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", suffix=".part", dir=self.target.parent))
            self.work.chmod(0o777 & ~_umask())
        except OSError as error:
            if self.work is not None:
                shutil.rmtree(self.work, ignore_errors=True)
            raise _not_writable(self.target, error) from error
        return self

    def __exit__(self, kind, error, trace) -> None:
        work, self.work = self.work, None
        if work is not None:
            try:
                if kind is None:
                    self._finish(work)
            except OSError as failure:
                raise _not_writable(self.target, failure) from failure
            finally:
                shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError):
            raise _not_writable(self.target, error) from error

    def path(self, name: str) -> Path:
        """Where to write the file ``name`` (relative, forward slashes); its folder exists afterwards."""
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or name == MANIFEST:
            raise ValueError(f"{name!r} is not the name of a file inside the build directory")
        if self.work is None:
            raise ValueError("a file is written outside the with block")
        path = self.work.joinpath(*parts.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, content: str | bytes) -> None:
        """Writes one file; text as UTF-8."""
        self.path(name).write_bytes(content.encode() if isinstance(content, str) else content)

    def manifest(self, **extra) -> None:
        """Adds keys to manifest.json; values must be JSON-able."""
        taken = [key for key in OWN_KEYS if key in extra]
        if taken:
            raise ValueError(f"manifest key {taken[0]!r} is written by OutputDir itself")
        self._extra.update(extra)

    def _finish(self, work: Path) -> None:
        files = {}
        for path in sorted(p for p in work.rglob("*") if p.is_file()):
            name = path.relative_to(work).as_posix()
            files[name] = sha256(path)
            old = self.target / name
            if old.is_file() and old.stat().st_size == path.stat().st_size and sha256(old) == files[name]:
                stat = old.stat()
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        content = {"generator": GENERATOR, "version": __version__, "files": files, **self._extra}
        (work / MANIFEST).write_text(_json_text(content))
        self._replace_target(work)

    def _replace_target(self, work: Path) -> None:
        if not self.target.exists():
            work.rename(self.target)
            return
        written = _files_of(self.target)
        backup = work.with_suffix(".old")
        moved: list[tuple[Path, Path]] = []
        self.target.rename(backup)
        try:
            work.rename(self.target)
            for path in [p for p in backup.rglob("*") if p.is_file() or p.is_symlink()]:
                name = path.relative_to(backup)
                new = self.target / name
                if name.as_posix() not in written and not new.exists() and _room(new, self.target):
                    new.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(new)
                    moved.append((path, new))
        except BaseException:
            for path, new in moved:
                new.rename(path)
            if self.target.exists():
                self.target.rename(work)
            backup.rename(self.target)
            raise
        shutil.rmtree(backup, ignore_errors=True)


def _files_of(build: Path) -> set[str]:
    """Names an earlier build's manifest lists, itself included."""
    manifest = build / MANIFEST
    return {MANIFEST, *json.loads(manifest.read_text())["files"]} if manifest.is_file() else {MANIFEST}


def _room(path: Path, root: Path) -> bool:
    """No part of the way to ``path`` below ``root`` is a file."""
    return all(parent.is_dir() or not parent.exists() for parent in path.parents if parent.is_relative_to(root))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_target(path: str | os.PathLike, core: bool = False) -> None:
    """Raises OutputError when a build, or a core, cannot be written to ``path``; to be asked before long work."""
    try:
        target = Path(path).resolve()
    except OSError as error:                                        # the current folder is gone
        raise _not_writable(Path(path), error) from error
    if target.is_dir():
        manifest = written(target)
        if any(target.iterdir()) and manifest is None:
            raise OutputError("the output directory already holds something that is not a hwgen build", where=str(target),
                              hint="choose another directory with -o, or empty this one")
        if manifest is not None and ("core" in manifest) != core:
            raise OutputError(f"the output directory holds {'the build of a network' if core else 'a core of hwgen core'}", where=str(target),
                              hint="choose another directory with -o")
    elif target.exists():
        raise OutputError("the output directory is a file", where=str(target), hint="choose another directory with -o")
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"{parent} is a file, so no directory can be made in it", where=str(target),
                          hint="choose another directory with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{parent} is not writable", where=str(target), hint="choose another directory with -o")


def written(path: Path) -> dict | None:
    """manifest.json of a build or a core; None where there is none, or somebody else's."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(manifest, dict) and manifest.get("generator") == GENERATOR and isinstance(manifest.get("files"), dict)
    return manifest if good else None


def _not_writable(path: str | os.PathLike, error: Exception) -> OutputError:
    where = "standard output" if is_stdout(path) else str(path)
    return OutputError(f"cannot write: {getattr(error, 'strerror', None) or error}", where=where,
                       hint="check the rights and the free space there, or choose another place")


def _json_text(data) -> str:
    return json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n"


def _plain(value):
    """Paths and numpy values as JSON knows them."""
    match value:
        case Path():
            return str(value)
        case np.generic() | np.ndarray():
            return value.tolist()
    raise TypeError(f"{value!r} cannot be written as JSON")


def is_stdout(path: str | os.PathLike) -> bool:
    """Whether an option that takes a file to write names standard output."""
    return str(path) in STDOUT


def write_file(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a single file in one step: it is there whole, or as it was before. Raises OutputError.

    A link is followed: what it leads to is replaced. What is no regular file (a device, a pipe) is opened and written, and ``-`` is
    standard output.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if is_stdout(path):
            if sys.stdout is None:
                raise OSError(errno.EBADF, "it is closed")
            sys.stdout.flush()
            rest = memoryview(data)
            while rest:                         # with PYTHONUNBUFFERED a call may write a part
                rest = rest[sys.stdout.buffer.write(rest):]
            sys.stdout.buffer.flush()
        elif os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            with open(path, "wb") as file:
                file.write(data)
        else:
            _replace(Path(path).resolve(), data)
    except BrokenPipeError:
        raise                                   # the reader has seen enough: no error of the user's
    except (OSError, RuntimeError) as error:    # RuntimeError: a link that leads to itself
        raise _not_writable(path, error) from error


def _replace(target: Path, data: bytes) -> None:
    """A new regular file takes the place of ``target``; its rights stay."""
    rights = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(prefix=".hwgen.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, rights)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def work_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder for the block. Raises OutputError when nothing can be written there, in the block too."""
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write temporary files: {error.strerror or error}", where=tempfile.gettempdir(),
                          hint="check the rights and the free space there, or name another folder in TMPDIR") from error


def write_json(path: str | os.PathLike, data) -> None:
    """`write_file` of JSON text with two spaces of indent; NaN and infinity are refused (ValueError)."""
    write_file(path, _json_text(data))
