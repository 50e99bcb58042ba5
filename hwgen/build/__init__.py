"""The build directory: what `compile` writes and everything else reads.

    manifest.json        generator, version, file digests, and the facts below (see docs/reference/build.md)
    model.npz            the integer network (`hwgen.store`)
    program.bin, .txt    instructions and their disassembly          weights.bin   weight image
    rtl/                 SystemVerilog, filelist.f                   bench/        native test bench
    driver/              register map and C driver                   report.json   what `hwgen report` shows
    hls/                 Vitis HLS project

`directory` knows the files, `facts` what the manifest says. Nothing else in hwgen opens a file of a build.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path

from .. import store
from ..checksum import crc32
from ..engines.rtl import Program
from ..errors import BuildVersionError, InputError
from ..foreign import REPR, visible
from ..output import OutputDir
from ..steps.step import Quantized
from ..strict_json import parse
from . import directory, facts


@dataclass(frozen=True)
class Build:
    """A loaded build directory. inputs: ONNX input name -> shape without the batch dimension; files: name -> SHA-256;
    digest: of the manifest; rtl: sources in the order a tool reads them, empty without the RTL backend."""

    path: Path
    model: Quantized
    program: Program
    inputs: dict[str, tuple[int, ...]]
    target: str
    clock_mhz: float
    bytes_per_cycle: float
    report: dict
    files: dict[str, str] = field(repr=False)
    digest: str
    rtl: tuple[str, ...]

    def __repr__(self) -> str:
        return visible(f"<Build {self.path} for {self.target}: {self.program!r}>", limit=REPR)

    @property
    def has_rtl(self) -> bool:
        """Whether the build was compiled with the RTL backend."""
        return directory.holds(self.files, directory.RTL)

    def need_rtl(self) -> None:
        """Raises InputError when the build was compiled without the RTL backend."""
        if not self.has_rtl:
            raise InputError("the build holds no RTL", where=str(self.path),
                             hint="compile with --backend rtl or both; what it holds runs with --engine csim")

    @property
    def has_hls(self) -> bool:
        """Whether the build was compiled with the HLS backend."""
        return directory.holds(self.files, directory.HLS)

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of files of the build. Raises BuildVersionError when one is no longer what hwgen wrote."""
        return {name: directory.read(self.path, name, self.files) for name in names}

    def below(self, folder: str) -> tuple[str, ...]:
        """Names of the files in a folder ("driver", "hls")."""
        return tuple(name for name in self.files if name.startswith(f"{folder}/"))

    def keep(self, content: dict) -> None:
        """Write the figures of a simulation into the directory. Raises OutputError."""
        directory.keep(self.path, self.digest, content)

    def clear(self, name: str) -> None:
        """See `directory.clear`."""
        directory.clear(self.path, name)

    def kept(self) -> tuple[dict, str | None]:
        """(what `keep` last wrote for this build, or nothing; why it is ignored, if it is)."""
        return directory.kept(self.path, self.digest)


def write(path: Path, files: dict[str, str | bytes], model: Quantized, program: Program, report: dict, *, inputs: dict[str, tuple[int, ...]],
          target: str, clock_mhz: float, bytes_per_cycle: float) -> None:
    """Write a build directory, whole or not at all. Raises OutputError."""
    with OutputDir(path) as out:
        for name, content in files.items():
            if not directory.known(name):
                raise ValueError(f"{name!r} is not the name of a file inside the build directory")
            out.write(name, content)
        out.write("program.bin", program.binary())
        out.write("program.txt", program.disassembly())
        out.write("weights.bin", program.image)
        out.write("model.npz", store.encode(model))
        out.write("report.json", json.dumps(report, indent=1) + "\n")
        out.manifest(
            format=directory.FORMAT, target=target, clock_mhz=clock_mhz, bytes_per_cycle=bytes_per_cycle,
            inputs={k: list(v) for k, v in inputs.items()}, engine=program.config.to_dict(),
            program={"batch": program.batch, "input_bytes": program.input_bytes, "output_bytes": program.output_bytes,
                     "program_crc32": crc32(program.binary()), "weight_crc32": crc32(program.image),
                     "outputs": [[asdict(o) for o in task] for task in program.outputs], "infos": [asdict(info) for info in program.infos],
                     "notes": [instr.note for instr in program.instrs], "buffers": [asdict(b) for b in program.buffers]})


def load(path: str | Path) -> Build:
    """Read a build directory. Raises BuildVersionError when it is of another version or damaged, InputError when it is no build."""
    path = Path(path)
    manifest, digest = directory.read_manifest(path)
    files = manifest["files"]
    binary, image, network, report = (directory.read(path, name, files) for name in ("program.bin", "weights.bin", "model.npz", "report.json"))
    rtl = directory.filelist(path, files) if directory.holds(files, directory.RTL) else ()
    try:
        program = facts.program(manifest, binary, image)
        inputs = facts.inputs(manifest.get("inputs"))
        model = store.decode(network)
        facts.agree(model, program, inputs)
        return Build(path, model, program, inputs, facts.text(manifest.get("target"), "target"),
                     facts.positive(manifest.get("clock_mhz"), "clock_mhz"), facts.positive(manifest.get("bytes_per_cycle"), "bytes_per_cycle"),
                     facts.report(parse(report), directory.holds(files, directory.HLS)), files, digest, rtl)
    except store.Unreadable as error:
        raise BuildVersionError(f"the build is damaged: model.npz {error}", where=str(path), hint=directory.AGAIN) from error
    except ValueError as error:
        raise directory.damaged(path, str(error)[:300]) from error
