"""The build directory as files: the names it may hold, the manifest with their digests, the one way to read them.

A build may come from a stranger. So only the names below are read, only regular files inside the directory (no link, neither
file nor folder, no device), and only with the digest the manifest gives. Other files in it are never opened. A file is read
once: its digest is that of the very bytes that are used.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import math
import os
from pathlib import Path, PurePosixPath
import re
import stat

from .. import __version__
from ..errors import BuildVersionError, InputError, OutputError
from ..output import GENERATOR, MANIFEST, write_json
from ..strict_json import parse

ALWAYS = ("model.npz", "report.json")
RTL = ("rtl/filelist.f", "rtl/hwgen_top.sv", "bench/main.cpp", "program.bin", "program.txt", "weights.bin", "driver/hwgen.h",
       "driver/registers.h")                                                           # all or none of them
HLS = ("hls/hwgen_config.hpp", "hls/hwgen_tables.hpp", "hls/hwgen_program.hpp", "hls/hwgen_top.hpp", "hls/hwgen_top.cpp",
       "hls/csim/main.cpp", "hls/weights.bin")                                         # all or none of them
MORE = re.compile(r"rtl/waivers\.vlt|rtl/[a-z][a-z0-9_]{0,60}\.sv|driver/[a-z0-9]{1,20}\.h|hls/README\.md|hls/driver/host\.cpp"
                  r"|hls/csim/(input|expected)\.bin|hls/scripts/(vitis_hls|vivado)\.tcl"
                  r"|host/(prefix\.onnx|suffix\.onnx|README\.md)"
                  r"|hls/(include/hwgen|stub)/[a-z][a-z0-9_]{0,60}\.(h|hpp)", re.ASCII)
KEPT = "simulation.json"            # the last simulation; hwgen may write it later, so it has no digest and is not trusted
SPENT = ("cycles", "issue", "wait_tile", "wait_hazard", "wait_output", "other")    # of its ``stalls``
JSON_BYTES = 1 << 26                # of the manifest and the kept simulation, at most
FILE_BYTES = 1 << 30                # of any other file
AGAIN = "compile the model again"
FORMAT = 3                          # of a build: another number, another set of facts and records. Builds of the first do not say it


def known(name: str) -> bool:
    """Whether a build may hold a file of this name (relative, forward slashes)."""
    return name in ALWAYS or name in RTL or name in HLS or MORE.fullmatch(name) is not None


def holds(files: Mapping[str, str], names: tuple[str, ...]) -> bool:
    """Whether a build with these ``files`` has the backend of ``names`` (`RTL`, `HLS`)."""
    return names[0] in files


def damaged(root: Path, reason: str) -> BuildVersionError:
    """The error for a build that is not what hwgen wrote."""
    return BuildVersionError(f"the build is damaged: {reason}", where=str(root), hint=AGAIN)


def short(value) -> str:
    """Any value for a message: ASCII, not long."""
    text = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_file(root: Path, name: str, limit: int = FILE_BYTES) -> bytes:
    """Content of a regular file of the directory that is reached through no link. Raises OSError, ValueError saying why not."""
    for folder in PurePosixPath(name).parents:
        if folder.parts and (root / folder).is_symlink():
            raise ValueError(f"{folder} is a link")
    try:
        handle = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if (root / name).is_symlink():
            raise ValueError(f"{name} is a link") from None
        raise
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{name} is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"{name} has {status.st_size:,} bytes, more than {limit:,}")
        return file.read()


def digest(data: bytes) -> str:
    """What the manifest holds of a file: SHA-256, hex digits."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(path: str | os.PathLike) -> tuple[dict, str]:
    """(manifest.json of a build directory, its own digest), after every file in it was found with its digest.

    Raises InputError for something that is no build, BuildVersionError for a build of another version or a damaged one.
    """
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise InputError("this is a file, not a build directory", where=str(root),
                         hint="give the directory hwgen compile wrote with -o")
    if not root.is_dir():
        raise InputError("there is no such build directory", where=str(root), hint="make one with hwgen compile ... -o DIRECTORY")
    try:
        data = read_file(root, MANIFEST, JSON_BYTES)
        manifest = parse(data)
    except FileNotFoundError as error:
        raise InputError(f"not a hwgen build: it has no {MANIFEST}", where=str(root),
                         hint="give the directory hwgen compile wrote with -o") from error
    except (OSError, ValueError) as error:
        raise damaged(root, f"{MANIFEST} cannot be read ({str(error)[:200]})") from error
    if not isinstance(manifest, dict) or manifest.get("generator") != GENERATOR:
        raise InputError(f"not a hwgen build: its {MANIFEST} was written by something else", where=str(root),
                         hint="give the directory hwgen compile wrote with -o")
    if "core" in manifest:
        raise InputError("this is a core, not the build of a network", where=str(root),
                         hint=f"its bench is {root / 'run.py'}, its README says what it does; builds are what hwgen compile wrote with -o")
    if manifest.get("version") != __version__:
        raise BuildVersionError(f"the build was made by hwgen {short(manifest.get('version')).strip(chr(39))}, this is hwgen {__version__}",
                                where=str(root), hint="compile again, or install that version")
    if manifest.get("format", 1) != FORMAT:
        raise BuildVersionError(f"the build was made by another state of hwgen {__version__}: it has the format "
                                f"{short(manifest.get('format', 1))}, this one reads {FORMAT}", where=str(root), hint="compile again")
    _check_names(root, manifest.get("files"))
    for name in manifest["files"]:
        read(root, name, manifest["files"])
    return manifest, digest(data)


def _check_names(root: Path, files) -> None:
    """The list of files is one that hwgen can have written."""
    if not isinstance(files, dict):
        raise damaged(root, f"{MANIFEST} has no list of files")
    for name, value in files.items():
        if not known(name):
            raise damaged(root, f"{short(name)} is not the name of a file in a build")
        if not isinstance(value, str):
            raise damaged(root, f"{MANIFEST} has no digest for {name}")
    for needed in (ALWAYS, RTL, HLS):
        missing = [name for name in needed if name not in files]
        if missing and (needed is ALWAYS or len(missing) < len(needed)):
            raise damaged(root, f"{MANIFEST} does not list {missing[0]}")
    if RTL[0] not in files and HLS[0] not in files:
        raise damaged(root, f"{MANIFEST} lists the files of no engine")


def read(root: Path, name: str, files: Mapping[str, str]) -> bytes:
    """Content of a file of the build, with the digest that ``files`` (of the manifest) gives. Raises BuildVersionError."""
    try:
        data = read_file(root, name)
    except FileNotFoundError as error:
        raise damaged(root, f"{name} is missing") from error
    except (OSError, ValueError) as error:
        raise damaged(root, f"{name} cannot be read ({error})") from error
    if digest(data) != files[name]:
        raise damaged(root, f"{name} is not what hwgen wrote")
    return data


def filelist(root: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the RTL sources in the order a tool reads them, ``rtl/hwgen_top.sv`` last. Raises BuildVersionError."""
    names = tuple(f"rtl/{line}" for line in read(root, RTL[0], files).decode("ascii", "replace").split())
    for name in names:
        if name not in files or not name.endswith(".sv"):
            raise damaged(root, f"rtl/filelist.f names {short(name.removeprefix('rtl/'))}, which is no RTL source of the build")
    if len(set(names)) != len(names) or not names or names[-1] != RTL[1]:
        raise damaged(root, "rtl/filelist.f does not list every source once, hwgen_top.sv last")
    return names


def keep(root: Path, build: str, content: dict) -> None:
    """Write what the last simulation gave; build: digest of the manifest. Raises OutputError."""
    clear(root, KEPT)
    write_json(root / KEPT, {"build": build, **content})


def clear(root: Path, name: str) -> None:
    """Make room for a file that is written into a build after it was compiled. A link, a pipe, a device of this name goes: what it leads to
    is none of the build's. Raises OutputError."""
    path = root / name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{name} of the build cannot be replaced: {error.strerror or error}", where=str(path),
                          hint="remove it, or compile into a new directory") from error


def kept(root: Path, build: str) -> tuple[dict, str | None]:
    """(what `keep` wrote for this very build, or nothing; why it is ignored, if it is). Any content of the file is possible."""
    try:
        content = parse(read_file(root, KEPT, JSON_BYTES))
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError) as error:
        return {}, f"{KEPT} cannot be read and is ignored ({str(error)[:200]})"
    if not isinstance(content, dict):
        return {}, f"{KEPT} is ignored: it is no record of a simulation"
    if content.pop("build", None) != build:
        return {}, None                                     # of an earlier build in this directory
    found = {key: content.get(key) for key in ("simulation", "stalls", "layers", "timeline")}
    simulation, stalls, layers, timeline = found.values()
    good = (isinstance(simulation, dict) and _numbers(simulation, ("cycles_per_image", "images"), least=1e-9)
            and isinstance(simulation.get("memory"), dict) and isinstance(stalls, dict) and _numbers(stalls, SPENT)
            and _rows(layers, ("instructions", "cycles", "useful_macs", *SPENT[1:-1]))
            and all(isinstance(row.get("node"), str) for row in layers or ())
            and _rows(timeline, ("pc", "start", "cycles", *SPENT[2:-1])))
    if not good:
        return {}, f"{KEPT} is ignored: it is no record of a simulation"
    return found, None


def _rows(value, keys: tuple[str, ...]) -> bool:
    """A list of records with such numbers."""
    return isinstance(value, list) and all(isinstance(row, dict) and _numbers(row, keys) for row in value)


def _numbers(record: dict, keys: tuple[str, ...], least: float = -math.inf) -> bool:
    """Whether the record has all of them as numbers."""
    return all(type(record.get(key)) in (int, float) and least <= record[key] < math.inf for key in keys)
