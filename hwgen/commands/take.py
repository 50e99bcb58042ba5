"""The command that gives single cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..output import write_json, written
from ..progress import Bars
from . import terminal
from .options import Json
from .terminal import say, table

LIST = "list"


def core(
    name: Annotated[str, typer.Argument(help="Which, as `softmax` or `gelu`; `list`, or none, lists them all with their parameters.",
                                        show_default=False)] = LIST,
    backend: Annotated[str, typer.Option(metavar="rtl|hls", help="Verilog with AXI4-Stream ports, or a C++ function with streams.")] = "rtl",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", show_default=False, help="A parameter, as `--set lanes=16`. "
                                                       "May be given several times.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", parser=terminal.folder, show_default=False,
                                                help="Where the core goes; otherwise "
                                                "`hwgen_NAME`, in C++ `hwgen_NAME_hls`. The same core is replaced there, unless it was "
                                                "changed.")] = None,
    target: Annotated[str, typer.Option(help="Board whose family `--synth` counts for.")] = "zcu104",
    synth: Annotated[bool, typer.Option("--synth", help="Let Yosys count the cells, for the README: takes minutes.")] = False,
    simulate: Annotated[bool, typer.Option("--simulate", help="Let Icarus Verilog count the cycles, for the README.")] = False,
    json: Json = None,
) -> None:
    """Take a single unit of the engine as a core of its own, with golden model, bench and README: softmax, norm, attention and others."""
    from .. import cores
    from ..cores.parameter import settings as read, shown
    if name == LIST:
        known = [(template, p) for template in cores.TEMPLATES.values() for p in template.parameters]
        if json:
            write_json(json, {"cores": {template.name: {"title": template.title, "parameters": {
                p.name: {"default": p.default, "range": p.range, "meaning": p.meaning} for p in template.parameters}}
                for template in cores.TEMPLATES.values()}, "aliases": {alias: base for alias, (base, _) in cores.ALIASES.items()}})
        table("core", "parameter", "default", "possible", "meaning",
              rows=[(t.name if p is t.parameters[0] else "", p.name, shown(p.default), p.range, p.meaning) for t, p in known])
        for template in cores.TEMPLATES.values():
            others = [alias for alias, (base, _) in cores.ALIASES.items() if base == template.name]
            say(terminal.out, f"{template.name}: {template.title}" + (f"; also as {', '.join(others)}" if others else ""))
        return
    chosen = read(settings or [])
    place = output or Path(cores.plan(name, backend, chosen).folder)
    again = written(place) is not None
    with Bars(terminal.err) as bars:
        made = terminal.api().core(name, backend, place, target=target, synth=synth, simulate=simulate, progress=bars, **chosen)
    if json:
        write_json(json, {"core": made.name, "backend": made.backend, "top": made.top, "folder": str(place), "ports": made.ports,
                          "parameters": made.settings})
    say(terminal.out, f"{made.template.title}: {', '.join(f'{key} = {shown(value)}' for key, value in made.settings.items())}")
    run = ["run.py --sim icarus", "run.py --sim verilator"] if made.backend == "rtl" else ["run.py"]
    say(terminal.out, f"{'replaced in' if again else 'written to'} {place}, compared with its golden model by: "
        + "   or: ".join(f"python {place}/{line}" for line in run))
