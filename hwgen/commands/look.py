"""Commands that look at a build or a board: report, compare, estimate, show, describe, synth, targets."""

from __future__ import annotations

from pathlib import Path
import time
from typing import Annotated

import typer

from .. import report as reporting
from ..arrays import parse_array, parse_shapes
from ..choices import Backend, Format, Grain, Method, Precision, Stage
from ..output import is_stdout, write_file, write_json
from ..progress import Bars
from . import terminal
from .options import (
    AllowHost,
    Array,
    BackendOption,
    Batch,
    Build,
    Calib,
    Json,
    Lengths,
    MethodOption,
    Model,
    PrecisionOption,
    Quant,
    Shapes,
    Target,
    chosen,
)
from .terminal import say, table


def report(
    build: Build,
    html: Annotated[Path | None, typer.Option(metavar="FILE", callback=terminal.result, help="Also write one self-contained HTML page.")] = None,
    section: Annotated[str | None, typer.Option(metavar="NAME|all", show_default=False, help="Print this table instead, as `layers`, `resources` or "
                                                "`instructions`, also by the end of its name; `all` prints every one.")] = None,
    json: Json = None,
) -> None:
    """Say how fast a build is, whether it fits, what limits it and how accurate it is; after `simulate` with the cycles of the simulation."""
    acc = terminal.api().load(build)
    data = acc.report()
    if html:
        write_file(html, acc.page())
    if json:
        write_json(json, data)
    if section:
        reporting.show_sections(reporting.named(data, section), terminal.out)
        return
    for line in reporting.summary(data):
        say(terminal.out, line)
    for warning in data.get("warnings", ()):
        say(terminal.out, f"warning: {warning}")
    if not html:
        say(terminal.out, f"all figures: hwgen report {build} --section all    a page: hwgen report {build} --html report.html")


def compare(
    builds: Annotated[list[Path], typer.Argument(metavar="BUILD", help="Two or more build directories, or JSON files that `hwgen report "
                                                 "--json` wrote.",
                                                 show_default=False)],
    html: Annotated[Path | None, typer.Option(metavar="FILE", callback=terminal.result, help="Also write one self-contained HTML page with "
                                              "Pareto plots.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", callback=terminal.result, help="Also write a line a build.")] = None,
    json: Json = None,
) -> None:
    """Put builds side by side: cycles, latency, cells, accuracy; `*` marks what differs, `<` what is best of figures of one stage."""
    from ..page import compare_page
    compared = terminal.api().compare(builds)
    if html:
        write_file(html, compare_page(compared, time.time()))
    if csv:
        write_file(csv, compared.to_csv())
    if json:
        write_json(json, compared.to_dict())
    table("", *compared.names, rows=compared.lines())
    for note in compared.notes:
        say(terminal.out, f"note: {note}")


def estimate(
    model: Model,
    target: Annotated[str | None, typer.Option(help="Board: a name from `hwgen targets`, or a YAML file; otherwise `sim`, which is no "
                                               "board: 64 bytes a cycle and no limits.",
                                               show_default=False)] = None,
    targets: Annotated[str | None, typer.Option(metavar="all|NAME,NAME,…", help="Several boards in one table.", show_default=False)] = None,
    calib: Calib = None, shape: Shapes = None, array: Array = None, method: MethodOption = Method.MINMAX, backend: BackendOption = Backend.RTL,
    precision: PrecisionOption = Precision.W8A8, batch: Batch = 1, quant: Quant = None, allow_host: AllowHost = False, lengths: Lengths = False,
    json: Json = None,
) -> None:
    """Say in seconds how fast a model would be on a board and whether it fits; with `--calib` also how accurate. Writes nothing."""
    if target is not None and targets is not None:
        raise typer.BadParameter("give --target or --targets, not both")
    with Bars(terminal.err) as bars:
        found = terminal.api().estimate(model, targets or target or "sim", parse_shapes(shape), calib=calib, array=parse_array(array),
                                        method=method.value, backend=backend.value, precision=precision.value, batch=batch, quant=quant,
                                        allow_host=allow_host, lengths=lengths, progress=bars)
    if json:
        write_json(json, {"model": str(model), "error_of_estimates": reporting.ERROR_OF_ESTIMATES, "boards": [one.to_dict() for one in found]})
    if targets is None:
        for line in reporting.summary(found[0].report):
            say(terminal.out, line)
    else:
        table(*reporting.BOARDS, rows=[reporting.board_row(one.target, one.report, one.error) for one in found])
    say(terminal.out, f"note: estimates; {reporting.ERROR_OF_ESTIMATES}. The network was not compared with the ONNX file: hwgen check does")


def show(
    source: Annotated[Path, typer.Argument(metavar="MODEL|BUILD", help="An ONNX file, or a directory that `hwgen compile` wrote.",
                                           show_default=False)],
    stage: Annotated[Stage | None, typer.Option(help="Nodes of the file, operators, passes of the array, instructions; otherwise the graph of a "
                                                "file, the program of a build.")] = None,
    node: Annotated[str | None, typer.Option(metavar="NAME", help="Only what comes from this ONNX node, or from those with this in their name, in "
                                             "full detail.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every line: repeated blocks are not folded.")] = False,
    target: Target = "sim", calib: Calib = None, shape: Shapes = None, array: Array = None, method: MethodOption = Method.MINMAX,
    precision: PrecisionOption = Precision.W8A8, batch: Batch = 1, quant: Quant = None, allow_host: AllowHost = False, json: Json = None,
) -> None:
    """Print a model, or a build, as it is at one stage of the compiler."""
    with Bars(terminal.err) as bars:
        shown = terminal.api().show(source, stage, node, everything, shapes=parse_shapes(shape), target=target, calib=calib, array=parse_array(array),
                            method=method.value, precision=precision.value, batch=batch, quant=quant,
                            allow_host=allow_host, progress=bars)
    if json:
        write_json(json, {"of": shown.of, "stage": shown.stage, "lines": shown.lines})
    say(terminal.out, shown.text.rstrip("\n"))


def describe(
    build: Build,
    grain: Annotated[Grain, typer.Option(parser=chosen(Grain), metavar="|".join(Grain),
                                         help="`summary`: the whole in a few pages. `block`: each module or C++ function and each step, with its "
                                         "code. `signal`: each port, register and wire, or argument and stream, with what drives "
                                         "it.")] = Grain.SUMMARY,
    written: Annotated[Format, typer.Option("--format", parser=chosen(Format), metavar="|".join(Format),
                                            help="Markdown, or `jsonl`: a line a description with the text that it "
                                            "describes.")] = Format.MARKDOWN,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", callback=terminal.result, show_default=False,
                                                help="Where it goes; otherwise to standard output.")] = None,
    json: Json = None,
) -> None:
    """Tell in words what a build is: function, ports, protocol, timing, from its RTL or C++, its network and the comments of its sources."""
    found = terminal.api().load(build).describe(grain)
    if json:
        write_json(json, found.to_dict())
    if output or not (json and is_stdout(json)):
        write_file(output or "-", found.to_jsonl() if written is Format.JSONL else found.to_markdown())
    for entry, name in found.unknown:
        say(terminal.err, f"warning: {entry} speaks of {name}, which is not in the build")


def synth(
    build: Build,
    flow: Annotated[str, typer.Option(help="A file of the folder flows, without its ending.")] = "yosys",
    target: Annotated[str | None, typer.Option(help="Count for another board of the same family.")] = None,
    json: Json = None,
) -> None:
    """Synthesize the generated RTL and count its cells, unit by unit, against the board."""
    acc = terminal.api().load(build)
    with Bars(terminal.err) as bars:
        result = acc.synth(flow, target, progress=bars)
    data = result.to_dict()
    if json:
        write_json(json, data)
    reporting.show(data, terminal.out, title=result.stage, leave_out=("modules", "notes"))
    for note in result.notes:
        say(terminal.out, f"note: {note}")


def targets(json: Json = None) -> None:
    """List the boards `--target` knows."""
    from ..devices.board import boards
    known = boards()
    if json:
        write_json(json, {"targets": [b.to_dict() for b in known]})

    def amount(board, number):
        return f"{number:,}" if board.family.limits else "no limit"
    table("name", "LUT", "DSP", "BRAM36", "URAM", "GB/s", "MHz",
          rows=[(b.name, *(amount(b, n) for n in (b.lut, b.dsp, b.bram36, b.uram)), f"{b.memory_gb_s:g}", f"{b.clock_mhz:g}") for b in known])

    def memory(board):
        ports, every = board.ports, f"; all {board.ports.number}: {board.bytes_per_cycle(ports=board.ports.number):.3g}, not built"
        return f"port of {ports.bits} bits: {board.bytes_per_cycle():.3g} bytes a cycle{every if ports.number > 1 else ''}"
    for board in known:
        say(terminal.out, f"{board.name}: {board.title}" + (f", {board.part}" if board.family.limits else "") + f"; {memory(board)}")
    for text in dict.fromkeys(text for board in known for text in board.family.not_measured):
        names = ", ".join(board.name for board in known if text in board.family.not_measured)
        say(terminal.out, f"note: resources on {names} are planning figures: {text}")
