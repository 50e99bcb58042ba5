"""Digests of what hwgen makes of a recorded network, and the digests file: a line a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
import re
import zlib

from . import adapter
from .form import Recorded

Digests = dict[str, dict[str, str]]          # build -> column -> 16 hex digits, or the class of a refusal
EXPECTED = ("config", "notes")               # columns that may change without a result doing so

TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[A-Za-z_]\w*|\d[\w.\']*|\S')
COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
WORD = re.compile(r"[A-Za-z_]\w*")
KEPT = frozenset({"hwgen", "std", "hls", "include", "ifndef", "ifdef", "define", "endif", "pragma", "namespace", "struct", "static",
                  "constexpr", "const", "unsigned", "int", "return", "extern", "using", "void", "template", "typename", "sizeof", "auto"})


def normalised(text: str) -> str:
    """C++ without comments and white space, its identifiers numbered in the order in which they appear.

    Names of the kernels (``hwgen::linear``) and of the language stay: another function called is another text.
    """
    tokens = TOKEN.findall(COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else " ", text))
    numbers: dict[str, str] = {}
    result: list[str] = []
    for token in tokens:
        qualified = len(result) > 2 and result[-2:] == [":", ":"] and result[-3] in ("hwgen", "std", "hls")
        if WORD.fullmatch(token) and token not in KEPT and not qualified:
            token = numbers.setdefault(token, f"i{len(numbers)}")
        result.append(token)
    return " ".join(result)


def of(part: bytes | str | dict[str, str]) -> str:
    """Digest of one column: of bytes, of text, of C++ files (a dict), or the class of a refusal."""
    if isinstance(part, dict):
        if "refused" in part:
            return part["refused"]
        part = "".join(f"{name}\n{normalised(text)}\n" for name, text in sorted(part.items()))
    return hashlib.sha256(part if isinstance(part, bytes) else part.encode()).hexdigest()[:16]


def network(recorded: Recorded, root: Path) -> Digests:
    """Everything digested of a network, build by build; root: of the repository."""
    model = adapter.float_model(recorded, root)
    x = adapter.input_images(model, zlib.crc32(recorded.key.encode()))
    quantized: dict[tuple[str, str], tuple[adapter.Integers, dict[str, str]]] = {}
    result: Digests = {}
    for name, build in recorded.builds.items():
        key = build.precision, build.method
        if key not in quantized:
            integers = adapter.quantized(model, recorded.ranges, *key)
            quantized[key] = integers, {column: of(part) for column, part in adapter.integers(integers, x).items()}
        integers, columns = quantized[key]
        parts = adapter.rtl(integers, build, x) | adapter.project(integers, build, x, recorded.key)
        result[name] = columns | {column: of(part) for column, part in parts.items()}
    return result


def read(path: Path) -> dict[str, Digests]:
    """{network: its digests}; nothing when there is no file."""
    if not path.exists():
        return {}
    content: dict[str, Digests] = json.loads(path.read_text())
    return content


def write(path: Path, digests: dict[str, Digests]) -> None:
    """One line a network, in the order of their names."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(digests[key])}" for key in sorted(digests))
    path.write_text(f"{{\n{lines}\n}}\n")


def differing(found: Digests, committed: Digests) -> dict[str, list[str]]:
    """{column: builds in which it differs, is missing or is new}; the column "builds" when the builds are not the same."""
    result: dict[str, list[str]] = {}
    if changed := sorted(found.keys() ^ committed.keys()):
        result["builds"] = changed
    for build in found.keys() & committed.keys():
        columns = found[build].keys() | committed[build].keys()
        for column in sorted(columns):
            if found[build].get(column) != committed[build].get(column):
                result.setdefault(column, []).append(build)
    return result
