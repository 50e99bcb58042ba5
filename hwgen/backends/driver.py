"""Host driver of a build: register map and a C header, used on a board and by the native bench alike."""

from __future__ import annotations

from .. import __version__, registers
from ..engine import EngineConfig
from ..program import WORD_BITS
from ..render import render
from ..schedule import Program


def register_header(config: EngineConfig) -> str:
    """C header of the register map for one engine."""
    return render("driver/registers.h.j2", version=__version__, id_value=registers.ID_VALUE, config_id=int(config.digest[:8], 16),
                  program_base=registers.PROGRAM_BASE, registers=registers.REGISTERS, status_bits=list(registers.StatusBit))


def files(program: Program, name: str) -> dict[str, str]:
    """{relative path: text}. name: of the network, for comments."""
    config = program.config
    outputs = [dict(task=task, name=o.name, image=o.image, channels=o.channels, first=o.word * config.to, step=o.step * config.to)
               for task, slices in enumerate(program.outputs) for o in slices]
    header = render("driver/hwgen.h.j2", name=name, version=__version__, vector_bytes=config.vector_bytes, to=config.to,
                    input_bytes=program.input_bytes,
                    input_stride=program.input_stride, output_bytes=program.output_bytes, weight_bytes=len(program.image),
                    program_bytes=len(program.instrs) * WORD_BITS // 8, num_tasks=program.num_tasks, outputs=outputs)
    return {"driver/registers.h": register_header(config), "driver/hwgen.h": header}
