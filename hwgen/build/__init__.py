"""The build directory: what `compile` writes and everything else reads.

    manifest.json        generator, version, file digests, and the facts below (see docs/reference/build.md)
    model.npz            the integer network (`hwgen.build.store`)
    report.json          what `hwgen report` shows
    RTL engine           program.bin, .txt, weights.bin; rtl/: SystemVerilog, filelist.f; bench/: native test bench; driver/: registers, C driver
    HLS engine           hls/: Vitis HLS project
    host parts           host/: what onnxruntime runs in front of the engine and behind it (`hwgen.hostparts`)

`directory` knows the files, `facts` what the manifest says. Nothing else in hwgen opens a file of a build.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path

from ..checksum import crc32
from ..engines.rtl.program import Program
from ..errors import BuildVersionError, InputError
from ..foreign import REPR, visible
from ..hostparts import PREFIX, SUFFIX, HostParts
from ..output import OutputDir
from ..padding import Padding
from ..render import render
from ..steps.step import Quantized
from ..strict_json import parse
from . import directory, facts, hostfacts, store


@dataclass(frozen=True)
class Build:
    """A loaded build directory. inputs: ONNX input name -> shape without the batch dimension; files: name -> SHA-256;
    digest: of the manifest. host: what runs in front of the engine and behind it, if anything does; program, rtl: of the RTL engine, its
    sources in the order a tool reads them; None and empty without it. padding: input of the file that says which tokens are there."""

    path: Path
    model: Quantized
    program: Program | None
    inputs: dict[str, tuple[int, ...]]
    target: str
    clock_mhz: float
    bytes_per_cycle: float
    report: dict
    files: dict[str, str] = field(repr=False)
    digest: str
    rtl: tuple[str, ...]
    host: HostParts | None = None
    padding: Padding | None = None

    def __repr__(self) -> str:
        return visible(f"<Build {self.path} for {self.target}: {self.program or self.model!r}>", limit=REPR)

    @property
    def has_rtl(self) -> bool:
        """Whether the build was compiled with the RTL backend."""
        return directory.holds(self.files, directory.RTL)

    def need_rtl(self) -> Program:
        """The program of the RTL engine. Raises InputError when the build was compiled without it."""
        if self.program is None:
            raise InputError("the build holds no RTL", where=str(self.path),
                             hint="compile with --backend rtl or both; what it holds runs with --engine csim")
        return self.program

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


def write(path: Path, files: dict[str, str | bytes], model: Quantized, program: Program | None, report: dict, *, inputs: dict[str, tuple[int, ...]],
          target: str, clock_mhz: float, bytes_per_cycle: float, host: HostParts | None = None, padding: Padding | None = None) -> None:
    """Write a build directory, whole or not at all. program: of the RTL engine, if the build has it. inputs: of the engine. Raises OutputError."""
    with OutputDir(path) as out:
        for name, content in files.items():
            if not directory.known(name):
                raise ValueError(f"{name!r} is not the name of a file inside the build directory")
            out.write(name, content)
        out.write("model.npz", store.encode(model))
        for name, part in (host.parts if host else {}).items():
            out.write(name, part.content)
        if host:
            out.write("host/README.md", render("host.md.j2", host=host))
        out.write("report.json", json.dumps(report, indent=1) + "\n")
        out.manifest(
            format=directory.FORMAT, target=target, clock_mhz=clock_mhz, bytes_per_cycle=bytes_per_cycle,
            inputs={k: list(v) for k, v in inputs.items()}, **({} if program is None else _facts(program)), **({} if host is None else {
                "host": hostfacts.record(host)}), **({} if padding is None else {"padding": asdict(padding)}))


def _facts(program: Program) -> dict:
    """What the manifest says of a program."""
    return {
        "engine": program.config.to_dict(),
        "program": {"batch": program.batch, "input_bytes": program.input_bytes, "output_bytes": program.output_bytes,
                    "program_crc32": crc32(program.binary()), "weight_crc32": crc32(program.image),
                    "outputs": [[asdict(o) for o in task] for task in program.outputs], "infos": [asdict(info) for info in program.infos],
                    "notes": [instr.note for instr in program.instrs], "buffers": [asdict(b) for b in program.buffers]}}


def load(path: str | Path) -> Build:
    """Read a build directory. Raises BuildVersionError when it is of another version or damaged, InputError when it is no build."""
    path = Path(path)
    manifest, digest = directory.read_manifest(path)
    files = manifest["files"]
    network, report = (directory.read(path, name, files) for name in directory.ALWAYS)
    with_rtl = directory.holds(files, directory.RTL)
    rtl = directory.filelist(path, files) if with_rtl else ()
    try:
        program = facts.program(manifest, *(directory.read(path, name, files) for name in ("program.bin", "weights.bin"))) if with_rtl else None
        inputs = facts.inputs(manifest.get("inputs"))
        model = store.decode(network)
        facts.agree(model, program, inputs)
        parts = {name: directory.read(path, name, files) for name in (PREFIX, SUFFIX) if name in files}
        host = hostfacts.read(manifest.get("host"), parts, inputs, model) if "host" in manifest or parts else None
        padding = facts.padding(manifest["padding"], model) if "padding" in manifest else None
        return Build(path, model, program, inputs, facts.text(manifest.get("target"), "target"),
                     facts.positive(manifest.get("clock_mhz"), "clock_mhz"), facts.positive(manifest.get("bytes_per_cycle"), "bytes_per_cycle"),
                     facts.report(parse(report), directory.holds(files, directory.HLS)), files, digest, rtl, host, padding)
    except store.Unreadable as error:
        raise BuildVersionError(f"the build is damaged: model.npz {error}", where=str(path), hint=directory.AGAIN) from error
    except ValueError as error:
        raise directory.damaged(path, str(error)[:300]) from error
