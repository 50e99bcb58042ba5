"""The border to the onnx package: its errors, and numpy's and protobuf's, on a damaged or hostile file become one ModelError."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError, EncodeError
import onnx

from ..errors import ModelError

MAX_ELEMENTS = 1 << 26                 # of any value of the network: 256 MB of positions
# What those packages and the operating system raise. RuntimeError holds RecursionError and NotImplementedError.
FOREIGN = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError, EncodeError, ValueError, TypeError,
           LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, MemoryError)
MAX_SHOWN = 80                         # characters of a name in a message


@contextmanager
def border(path: Path, place: str):
    """``place``: what is being read, in the user's words ("weight 'w0'", "Reshape node 'r'"). Errors of hwgen pass through."""
    try:
        yield
    except FOREIGN as error:
        if isinstance(error, MemoryError):
            problem, hint = "it needs more memory than there is", "is a dimension in the file far too large?"
        else:
            problem = " ".join(f"{error}".split())[:300] or type(error).__name__
            hint = "the file is damaged, or written by a faulty exporter: export the model again"
        raise ModelError(f"cannot read {place}: {problem}", where=str(path) if place == "the model" else f"{path}: {place}",
                         hint=hint) from error


def quoted(name: str | bytes) -> str:
    """A name for a message: escaped, and cut when it is long."""
    return repr(name) if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]!r}… ({len(name)} characters)"


def node_place(kind: str, name: str) -> str:
    return f"{kind} node {quoted(name)}"
