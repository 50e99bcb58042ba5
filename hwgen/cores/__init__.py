"""Single cores to take: a softmax, an activation function, a norm, a router ... as RTL or HLS C++, with golden model, bench and README.

A core is made of the units of the engine (rtl/sv, rtl/hwgen_rtl, hls/include), which are not written again: `hwgen_rtl.cores` and hls/cores put
AXI4-Stream ports round them. `TEMPLATES` is the list, `plan` reads a core's parameters, `files` gives what its folder holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
import json
from types import ModuleType, SimpleNamespace

from ..errors import InputError
from ..functions import FAMILIES, FUNCTIONS
from .matrix import ATTENTION, LINEAR
from .parameter import Value, nearest, shown, values
from .rows import ACTIVATION, LAYERNORM, ROUTER, SOFTMAX
from .template import Template

BACKENDS = ("rtl", "hls")
TEMPLATES: dict[str, Template] = {template.name: template for template in (SOFTMAX, ACTIVATION, LAYERNORM, ROUTER, ATTENTION, LINEAR)}
ALIASES: dict[str, tuple[str, dict[str, Value]]] = {
    **{name: ("activation", {"function": name}) for name in (*FUNCTIONS, *FAMILIES)},
    "rmsnorm": ("layernorm", {"rms": True})}
"""Other names of a template with a parameter fixed."""


@dataclass(frozen=True)
class Core:
    """A template with its parameters. name: as it was asked for; settings: what the parameters are; p: these, and what follows from them."""

    template: Template
    name: str
    backend: str
    settings: dict[str, Value]
    p: SimpleNamespace

    @property
    def top(self) -> str:
        """Name of the module or function, and of its file."""
        return f"hwgen_{self.name.replace('-', '_')}"

    @property
    def folder(self) -> str:
        """Where it goes if nothing else is said."""
        return self.top + "_hls" * (self.backend == "hls")

    @property
    def golden(self) -> ModuleType:
        """The module of `golden`."""
        return import_module(f".golden.{self.template.golden}", __name__)

    @property
    def ports(self) -> dict[str, int]:
        """Bits of TDATA by stream; in RTL also ``error`` where there is one."""
        return self.template.ports(self.p) | ({"error": 1} if self.template.rows and self.backend == "rtl" else {})

    @property
    def command(self) -> str:
        """That makes it again."""
        base = dict(ALIASES.get(self.name, ("", {}))[1])
        changed = [f"--set {p.name}={shown(self.settings[p.name])}" for p in self.template.parameters
                   if self.settings[p.name] != base.get(p.name, p.default)]
        return " ".join(["hwgen core", self.name, "--backend", self.backend, *changed])


def plan(name: str, backend: str = "rtl", settings: Mapping[str, str | Value] | None = None) -> Core:
    """The core of this name with these parameters. Raises InputError for a name, a backend or parameters that are not possible."""
    base, fixed = ALIASES.get(name, (name, {}))
    if base not in TEMPLATES:
        near = nearest(name, [*TEMPLATES, *ALIASES])
        raise InputError(f"there is no core {name[:60]!r}{f', did you mean {near}?' if near else ''}", where="hwgen core",
                         hint=f"there are {', '.join(TEMPLATES)}, and {', '.join(ALIASES)}; hwgen core lists their parameters")
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend[:60]!r}", where="option --backend", hint="choose rtl or hls")
    template, given = TEMPLATES[base], settings or {}
    for parameter in template.parameters:
        if parameter.name in fixed and parameter.name in given and parameter.read(given[parameter.name]) != fixed[parameter.name]:
            raise InputError(f"{parameter.name} = {given[parameter.name]} contradicts the name {name}", where="option --set",
                             hint=f"take hwgen core {base}")
    chosen = values(template.parameters, {**given, **fixed}, name)
    p = SimpleNamespace(**chosen)
    vars(p).update(template.derive(p))
    return Core(template, name, backend, chosen, p)


def facts(core: Core) -> str:
    """core.json: what golden model and benches read."""
    latency = core.template.latency(core.p) if core.backend == "rtl" else None
    return json.dumps({"top": core.top, "command": core.command, "ports": core.ports, "latency": latency,
                       "words_per_call": core.template.words_per_call(core.p), "parameters": vars(core.p)}) + "\n"
