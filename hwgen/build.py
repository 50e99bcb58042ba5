"""The build directory: what `compile` writes and everything else reads.

    manifest.json        generator, version, file digests, and the facts below (see docs/reference/json.md)
    model.npz            the integer network (`hwgen.store`)
    program.bin, .txt    instructions and their disassembly          weights.bin   weight image
    rtl/                 SystemVerilog, filelist.f                   bench/        native test bench
    driver/              register map and C driver                   report.json   what `hwgen report` shows
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from pathlib import Path

from . import store
from .engine import EngineConfig
from .errors import BuildVersionError
from .foreign import REPR, visible
from .output import OutputDir, read_manifest
from .program import Instr
from .qir import QModel
from .schedule import BufferInfo, InstrInfo, OutputSlice, Program


@dataclass(frozen=True)
class Build:
    """A loaded build directory. inputs: ONNX input name -> shape without the batch dimension."""

    path: Path
    model: QModel
    program: Program
    inputs: dict[str, tuple[int, ...]]
    target: str
    clock_mhz: float
    bytes_per_cycle: float
    report: dict

    def __repr__(self) -> str:
        return visible(f"<Build {self.path} for {self.target}: {self.program!r}>", limit=REPR)


def write(path: Path, files: dict[str, str | bytes], model: QModel, program: Program, report: dict, *, inputs: dict[str, tuple[int, ...]],
          target: str, clock_mhz: float, bytes_per_cycle: float) -> None:
    """Write a build directory, whole or not at all. Raises OutputError."""
    with OutputDir(path) as out:
        for name, content in files.items():
            out.write(name, content)
        out.write("program.bin", program.binary())
        out.write("program.txt", program.disassembly())
        out.write("weights.bin", program.image)
        out.write("model.npz", store.encode(model))
        out.write("report.json", json.dumps(report, indent=1) + "\n")
        out.manifest(
            target=target, clock_mhz=clock_mhz, bytes_per_cycle=bytes_per_cycle, inputs={k: list(v) for k, v in inputs.items()},
            engine=program.config.to_dict(),
            program=dict(batch=program.batch, input_bytes=program.input_bytes, output_bytes=program.output_bytes,
                         outputs=[[asdict(o) for o in task] for task in program.outputs], infos=[asdict(info) for info in program.infos],
                         notes=[instr.note for instr in program.instrs], buffers=[asdict(b) for b in program.buffers]))


def load(path: str | Path) -> Build:
    """Read a build directory. Raises BuildVersionError when it is of another version or damaged, InputError when it is no build."""
    path = Path(path)
    manifest = read_manifest(path)
    try:
        facts = manifest["program"]
        binary = (path / "program.bin").read_bytes()
        instrs = tuple(Instr.decode(int.from_bytes(binary[64 * i:64 * i + 64], "little"), note) for i, note in enumerate(facts["notes"]))
        program = Program(
            EngineConfig(**manifest["engine"]), instrs, tuple(InstrInfo(**info) for info in facts["infos"]),
            tuple(BufferInfo(**b) for b in facts["buffers"]), (path / "weights.bin").read_bytes(), facts["input_bytes"],
            facts["output_bytes"], tuple(tuple(OutputSlice(**o) for o in task) for task in facts["outputs"]), facts["batch"])
        return Build(path, store.load(path / "model.npz"), program, {k: tuple(v) for k, v in manifest["inputs"].items()},
                     manifest["target"], manifest["clock_mhz"], manifest["bytes_per_cycle"], json.loads((path / "report.json").read_text()))
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise BuildVersionError(f"the build directory is damaged: {error!r}", where=str(path), hint="compile the model again") from error
