"""Native test bench of a build: the C++ main and the register header it includes."""

from __future__ import annotations

from .. import __version__, registers
from ..engine import EngineConfig
from ..paths import data_dir
from ..render import render


def register_header(config: EngineConfig) -> str:
    """C header of the register map for one engine."""
    return render("driver/registers.h.j2", version=__version__, id_value=registers.ID_VALUE, config_id=int(config.digest[:8], 16),
                  program_base=registers.PROGRAM_BASE, registers=registers.REGISTERS, status_bits=list(registers.StatusBit))


def files(config: EngineConfig) -> dict[str, str]:
    """{relative path: text}."""
    return {"bench/main.cpp": (data_dir("templates") / "bench" / "main.cpp").read_text(), "bench/registers.h": register_header(config)}
