"""What of an ONNX file the host runs: a part in front of the engine (prefix), and one behind it (suffix), each an ONNX model of its own.

    file's inputs → prefix → engine's input ─engine→ engine's outputs → suffix → file's outputs

`importer.cut` makes the parts, `partition` chooses where, a build keeps them in ``host/``, `hostrun` runs them by onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .foreign import REPR, visible

PREFIX, SUFFIX = "host/prefix.onnx", "host/suffix.onnx"         # names in a build
SHARE, SMALL_SHARE = 0.05, 0.25         # of the file's multiply-accumulates that the host takes unasked; of a file with fewer than `BLOCKS` blocks
BLOCKS = 2
SHOWN = 4                               # nodes of a part in a message


@dataclass(frozen=True)
class Value:
    """An array that is given or made. dtype: numpy's name; shape: of one image, without the batch; limit: integers are below it, 0 when nobody
    knows (pixels, flags)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    limit: int = 0

    @property
    def is_float(self) -> bool:
        return np.dtype(self.dtype).kind == "f"

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {'x'.join(map(str, self.shape)) or 'number'}"

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Seeded images: standard normal; whole numbers like pixels where they are bytes, else from 0 to below the limit; all flags set."""
        kind = np.dtype(self.dtype)
        if kind.kind == "f":
            return rng.standard_normal((count, *self.shape)).astype(np.float32)
        if kind.kind == "b":
            return np.ones((count, *self.shape), kind)
        if self.limit == 0 and kind == np.uint8:
            return np.clip(127 + 50 * rng.standard_normal((count, *self.shape)), 0, 255).astype(kind)
        return rng.integers(0, self.limit or 2, (count, *self.shape)).astype(kind)


@dataclass(frozen=True)
class Part:
    """An ONNX model that onnxruntime runs, one image at a time. nodes: of the file, in its order; macs: multiply-accumulates of an image;
    size: elements of all its values, for the limit of memory."""

    content: bytes = field(repr=False)
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[str, ...]
    macs: int
    size: int

    @property
    def names(self) -> str:
        """Its nodes for a message."""
        rest = len(self.nodes) - SHOWN
        return ", ".join(map(repr, self.nodes[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class HostParts:
    """Inputs and outputs of the file, in its order, and what runs on the host. needs: output of the file -> the outputs of the engine it is
    computed from; macs: of the whole file."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    needs: dict[str, tuple[str, ...]]
    prefix: Part | None
    suffix: Part | None
    macs: int

    def __repr__(self) -> str:
        return visible(f"<HostParts: {', '.join(f'{name} of {len(part.nodes)} nodes' for name, part in self.parts.items())}>", limit=REPR)

    @property
    def parts(self) -> dict[str, Part]:
        """Those there are, by their file in a build."""
        return {name: part for name, part in ((PREFIX, self.prefix), (SUFFIX, self.suffix)) if part is not None}

    @property
    def share(self) -> float:
        """Of the multiply-accumulates of the file, that the host does."""
        return sum(part.macs for part in self.parts.values()) / max(self.macs, 1)

    def to_dict(self) -> dict[str, object]:
        """JSON-able, for reports; see docs/reference/json.md."""
        rows = [{"file": name, "nodes": list(part.nodes), "macs_per_image": part.macs, "share": part.macs / max(self.macs, 1),
                 "reads": [str(value) for value in part.inputs], "gives": [str(value) for value in part.outputs]}
                for name, part in self.parts.items()]
        return {"macs_per_image": sum(part.macs for part in self.parts.values()), "share": self.share, "parts": rows}

    def known(self, given: Iterable[str]) -> list[Value]:
        """The outputs of the file that can be computed from these outputs of the engine."""
        there = set(given)
        return [value for value in self.outputs if there.issuperset(self.needs[value.name])]
