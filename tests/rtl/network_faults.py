"""Faults of the control that networks with certain stages see, and others do not: (what, networks, module, text, wrong text)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from hwgen.engine import EngineConfig
from hwgen.engines.rtl import verilog
from hwgen_rtl import engine, feeder, top


@dataclass(frozen=True)
class Fault:
    """seen: options of `qgraphs.random_qgraph` of a network that sees it; unseen: of one without the stage, that does not."""

    name: str
    module: ModuleType
    right: str
    wrong: str
    seen: dict
    unseen: dict


PLAIN = {"seed": 3, "blocks": "d", "dim": 16, "tokens": 9, "hidden": 16}
EXPERTS = {"seed": 4, "blocks": "m", "pool": "mean", "dim": 16, "tokens": 9, "hidden": 16, "experts": 3}
FAULTS = (
    Fault("a gated expert's factor is of all tokens", feeder, "gather=cur.gather & ~streaming,",
          "gather=cur.gather & ~streaming & (cur.dst != Dst.OPERAND),", EXPERTS | {"blocks": "x"}, EXPERTS),
    Fault("a mean taken off an RMS norm", engine, "norm.centred.eq(~coefficient.rms)", "norm.centred.eq(1)", PLAIN | {"rms": True}, PLAIN),
    Fault("heads have the statistics of the first one", feeder, "row=f0.src_row + source_row,",
          "row=Mux(f0.mode == Src.EXP, f0.src_row, 0) + source_row,", PLAIN | {"heads_norm": "rms"}, PLAIN))


def files(fault: Fault, copy: Path, config: EngineConfig) -> dict[str, str]:
    """`verilog.files` with the fault, past the cache. copy: where the broken module is written."""
    with _seeded(fault, copy):
        return verilog.files(config) | {f"rtl/{verilog.TOP}.sv": verilog.to_verilog(top.Top(config), verilog.TOP)}


@contextmanager
def _seeded(fault: Fault, copy: Path) -> Iterator[None]:
    """What is elaborated within has the fault. Raises ValueError when the text to be changed is not there exactly once."""
    path = Path(str(fault.module.__file__))
    text = path.read_text()
    if text.count(fault.right) != 1:
        raise ValueError(f"{path.name} holds {fault.right!r} {text.count(fault.right)} times")
    copy.write_text(text.replace(fault.right, fault.wrong))
    spec = spec_from_loader(fault.module.__name__, SourceFileLoader(fault.module.__name__, str(copy)))
    broken = module_from_spec(spec)
    spec.loader.exec_module(broken)
    user, name = {feeder: (engine, "Feeder"), engine: (top, "Engine")}[fault.module]
    with patch.object(user, name, getattr(broken, name)):
        yield
