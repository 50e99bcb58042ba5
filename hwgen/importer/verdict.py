"""What becomes of a node of the file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """What becomes of an ONNX node."""

    SUPPORTED = "supported"        # an ir node computes it
    FUSED = "fused"                # part of an ir node
    FOLDED = "folded"              # a constant, or it changes nothing
    HOST = "host"                  # left to the host
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Verdict:
    """``into``: the ONNX node it became part of, or the ir operator; ``reason``: why it is folded or unsupported."""

    node: str
    op: str
    status: Status
    into: str = ""
    reason: str = ""
