"""Edits of a build directory, each a function of its path: what tests/test_build_attacks.py does to a good one."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
import zipfile

import numpy as np

from hwgen.checksum import crc32


def resign(b: Path, *names: str) -> None:
    def change(m):
        m["files"] |= {name: hashlib.sha256((b / name).read_bytes()).hexdigest() for name in names}
    manifest(change)(b)


def manifest(change):
    """An edit of manifest.json."""
    def edit(b: Path) -> None:
        data = json.loads((b / "manifest.json").read_text())
        change(data)
        (b / "manifest.json").write_text(json.dumps(data))
    return edit


def file(name: str, change, sign: bool = True):
    """An edit of one file's bytes."""
    def edit(b: Path) -> None:
        (b / name).write_bytes(change((b / name).read_bytes()))
        if sign:
            resign(b, name)
            data = (b / name).read_bytes()
            if name in ("program.bin", "weights.bin"):
                key = "program_crc32" if name == "program.bin" else "weight_crc32"
                manifest(lambda m: m["program"].update({key: crc32(data)}))(b)
    return edit


def npy(array, **options) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **options)
    return out.getvalue()


def member(which: str, change):
    """An edit of a member of model.npz."""
    def edit(data: bytes) -> bytes:
        old, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
        with zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                new.writestr(name, change(old.read(name)) if name == which else old.read(name))
        return out.getvalue()
    return file("model.npz", edit)


def header(change):
    """An edit of the JSON in model.npz."""
    def edit(data: bytes) -> bytes:
        content = json.loads(np.lib.format.read_array(io.BytesIO(data)).tobytes())
        change(content)
        return npy(np.frombuffer(json.dumps(content).encode(), np.uint8))
    return member("model.npy", edit)


def every(value, wanted, new):
    """Sets the keys ``wanted`` of all records in a JSON value."""
    if isinstance(value, dict):
        value |= {key: new for key in wanted if key in value}
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        every(item, wanted, new)


def steps(header) -> list:
    """The steps of the first network."""
    return header["model"]["tasks"][0]["steps"]


def tensors(header) -> list:
    return header["model"]["tasks"][0]["tensors"]


def factors(header) -> list:
    """The factors that are one for all columns."""
    return [stage["factor"] for step in steps(header) for stage in step["drain"] if stage.get("factor", {}).get("type") == "Factor"]


def compressed(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new, new.open("model.npy", "w") as bomb:
        for _ in range(1 << 10):
            bomb.write(bytes(1 << 20))
    return out.getvalue()


def link(name: str, target: str):
    def edit(b: Path) -> None:
        (b / name).unlink()
        (b / name).symlink_to(target)
        resign(b, name)
    return edit


def fifo(b: Path) -> None:
    (b / "program.txt").unlink()
    os.mkfifo(b / "program.txt")


def linked_folder(b: Path) -> None:
    (b / "rtl").rename(b.parent / "elsewhere")
    (b / "rtl").symlink_to(b.parent / "elsewhere")


def sparse(b: Path) -> None:
    with open(b / "weights.bin", "wb") as f:
        f.truncate(1 << 40)


def nested(h) -> None:
    value: list = []
    for _ in range(900):
        value = [value]
    h["model"]["tasks"] = value


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


PASSWD = "../../../../../../etc/passwd"
HUGE = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }".ljust(117) + b"\n"


def digest_of(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()
