"""What is proved of a component: its properties, and how far.

A `Claim` puts a component into a small Amaranth design (`Proof`) that watches its ports. The generated Verilog of that design, the very text
an engine is built of, is read by Yosys together with a wrapper in which every input may be anything in any cycle, every ``assume`` holds
and every ``assert`` must.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
import re
from types import ModuleType

from amaranth.hdl import Elaboratable, Fragment, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engines.rtl.verilog import to_verilog
from hwgen.tools import symbiyosys
import hwgen_rtl

SV = Path(hwgen_rtl.__file__).resolve().parent.parent / "sv"
TOP, DESIGN = "claim", "claim_design"


class Opened(Elaboratable):
    """A component whose own signals can be looked at, as the attributes its ``elaborate`` makes."""

    def __init__(self, component: wiring.Component):
        self.fragment = Fragment.get(component, None)

    def elaborate(self, platform):
        return self.fragment


class Proof(wiring.Component):
    """A design with inputs ``free`` (name -> bits), properties ``must`` and conditions of the surroundings ``given``; subclasses say in
    `watch` what they are. A condition restricts what the inputs do; it must not restrict what the component does. Inputs in ``constant``
    keep their value: what is proved of any, is proved of all."""

    def __init__(self, free: dict[str, int], must: tuple[str, ...], given: tuple[str, ...] = (), constant: tuple[str, ...] = ()):
        self.free, self.must, self.given, self.constant = free, must, given, constant
        super().__init__({**{name: In(bits) for name, bits in free.items()}, **{f"must_{name}": Out(1) for name in must},
                          **{f"given_{name}": Out(1) for name in given}})

    def watch(self, m: Module) -> None:
        raise NotImplementedError

    def elaborate(self, platform):
        m = Module()
        self.watch(m)
        return m


@dataclass(frozen=True)
class Fault:
    """One edit of a source: file of rtl/sv or of hwgen_rtl, text, what it becomes. The text is there once."""

    file: str
    old: str
    new: str

    def text(self, source: str) -> str:
        """Raises ValueError when the text is not there once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file} has {source.count(self.old)} times {self.old!r}")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Claim:
    """``make`` gives the `Proof` of a component of hwgen_rtl.``unit``, which it is handed as a module. ``depth`` cycles from reset are
    tried; with ``induction`` the properties hold for all time: what holds for ``depth`` cycles cannot fail in the next. ``faults``: for
    each property one that breaks it."""

    name: str
    unit: str
    make: Callable[[ModuleType], Proof]
    depth: int
    induction: bool
    faults: dict[str, Fault]
    sv: tuple[str, ...] = ()             # modules of rtl/sv that take part
    stubs: dict[str, str] = field(default_factory=dict)         # Verilog of those left out: whatever their contract allows
    without: str = "$^"                  # pattern of what is left out of ``sv`` because nothing that is proved depends on it

    def proof(self, fault: Fault | None = None) -> Proof:
        return self.make(_module(self.unit, fault))

    def verdict(self, fault: Fault | None = None) -> symbiyosys.Verdict:
        """Raises ToolError when a tool is missing or fails, ValueError for a fault that changes nothing."""
        return symbiyosys.prove(self.files(fault), TOP, self.depth, self.induction)

    def files(self, fault: Fault | None = None) -> dict[str, str]:
        """File name -> text of all that Yosys reads. Raises ValueError when the fault changes none of it."""
        proof = self.proof(fault)
        files = {f"{name}.sv": (SV / f"{name}.sv").read_text() for name in self.sv}
        if fault and fault.file in files:
            files[fault.file] = fault.text(files[fault.file])
        files = {name: re.sub(self.without, "", text, flags=re.DOTALL) for name, text in files.items()}
        return {**files, **{f"{name}.sv": text for name, text in self.stubs.items()}, "design.sv": to_verilog(proof, DESIGN),
                f"{TOP}.sv": wrapper(proof)}


class _Edited(SourceFileLoader):
    """A module of hwgen_rtl with a fault."""

    def __init__(self, name: str, path: Path, fault: Fault):
        self.fault = fault
        super().__init__(name, str(path))

    def get_code(self, fullname):
        return self.source_to_code(self.fault.text(Path(self.path).read_text()), self.path)


def _module(name: str, fault: Fault | None) -> ModuleType:
    """hwgen_rtl.``name``, or a copy of it with the fault."""
    if fault is None or fault.file != f"{name}.py":
        return import_module(f"hwgen_rtl.{name}")
    loader = _Edited(f"hwgen_rtl.{name}_with_a_fault", SV.parent / "hwgen_rtl" / fault.file, fault)
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def wrapper(proof: Proof) -> str:
    """Verilog: every input anything, the conditions assumed, the properties asserted under their names."""
    ports = {**proof.free, **{f"must_{name}": 1 for name in proof.must}, **{f"given_{name}": 1 for name in proof.given}}
    lines = [f"module {TOP}(input clk);"]
    kinds = {name: "(* anyconst *) " if name in proof.constant else "(* anyseq *) " for name in proof.free}
    lines += [f"  {kinds.get(name, '')}wire [{bits - 1}:0] {name};" for name, bits in ports.items()]
    lines += [f"  {DESIGN} design(.clk(clk), .rst(1'b0), " + ", ".join(f".{name}({name})" for name in ports) + ");"]
    lines += [f"  always @* assume(given_{name});" for name in proof.given]
    lines += [f"  always @* {name}: assert(must_{name});" for name in proof.must]
    return "\n".join([*lines, "endmodule", ""])
