"""hwgen: from a trained transformer in ONNX to a hardware accelerator, proven bit-exact by cycle-accurate simulation.

    acc = hwgen.compile("model.onnx", target="zcu104", calib="calib.npz", out="build")
    acc = hwgen.load("build")
    acc({"x": images})                       # {output name: float32 array}, computed by the generated RTL

Public are the names in ``__all__`` and `hwgen.errors`; everything else may change between versions.
"""

from importlib import import_module
import os

# Threads of OpenBLAS wait for work in a busy loop, a second long by default: half of the CPU time of a compile of a small network. Read when
# numpy is loaded; a value somebody has set stays.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

__version__ = "0.1.0"
__all__ = ["Accelerator", "MemoryModel", "SimulationResult", "__version__", "check", "compile", "errors", "load"]

_API = frozenset(__all__) - {"__version__", "errors"}


def __getattr__(name: str):
    """Loads the compiler on first use: ``hwgen --help`` and `hwgen.errors` need none of it."""
    if name in _API:
        return getattr(import_module(".api", __name__), name)
    if name == "errors":
        return import_module(".errors", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
