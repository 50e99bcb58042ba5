"""The command line. Every command is a thin shell round `hwgen.api`; what it prints, ``--json`` holds for programs.

Exit codes: 0 good, 1 a comparison failed, 2 bad input, 3 a tool is missing or failed.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
import io
from pathlib import Path
import sys
from typing import Annotated, Optional
import zipfile
import zlib

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
import typer

from . import __version__, report as reporting
from .errors import HwgenError, InputError, MismatchError
from .output import write_file, write_json
from .progress import Bars

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
                  help="From a trained transformer in ONNX to a hardware accelerator, proven bit-exact by simulation.",
                  epilog="Exit codes: 0 good, 1 a comparison failed, 2 bad input, 3 a tool is missing or failed.")
out, err = Console(), Console(stderr=True)


class Engine(str, Enum):
    """What runs the program."""

    VERILATOR = "verilator"
    ICARUS = "icarus"
    CSIM = "csim"
    GOLDEN = "golden"


class Backend(str, Enum):
    """What `compile` generates."""

    RTL = "rtl"
    HLS = "hls"
    BOTH = "both"


class Precision(str, Enum):
    """Bits of weights and activations."""

    W8A8 = "w8a8"
    W4A8 = "w4a8"
    W4A8_EXPERTS = "w4a8-experts"


class Method(str, Enum):
    """How an int8 range is taken from the calibration histogram."""

    PERCENTILE = "percentile"
    MSE = "mse"


Json = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")]
Shapes = Annotated[Optional[list[str]], typer.Option("--shape", metavar="NAME=DIMS", help="Fix a dynamic input shape, as "
                                                     "`--shape x=1x3x224x224`. May be given several times.")]
Build = Annotated[Path, typer.Argument(help="Directory that `hwgen compile` wrote.", show_default=False)]
Model = Annotated[Path, typer.Argument(help="The ONNX file.", show_default=False)]


def _api():
    """The compiler, loaded on first use (it pulls in onnx and amaranth)."""
    from . import api
    return api


def parse_shapes(items: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """``["x=1x3x224x224"]`` -> ``{"x": (1, 3, 224, 224)}``; raises InputError naming the item."""
    shapes = {}
    for item in items or ():
        name, _, dims = item.rpartition("=")
        parts = dims.split("x")
        if not name or not all(part.isdecimal() and int(part) for part in parts):
            raise InputError(f"{item!r} is not a shape", where="option --shape", hint="write it as --shape x=1x3x224x224")
        shapes[name] = tuple(map(int, parts))
    return shapes or None


def parse_array(text: str | None) -> tuple[int, int] | None:
    """``"16x16"`` -> ``(16, 16)``; raises InputError."""
    if text is None:
        return None
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise InputError(f"{text!r} is not an array size", where="option --array", hint="write it as --array 32x32")
    return int(parts[0]), int(parts[1])


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``; raises InputError for anything else."""
    hint = "write it with numpy.savez(file, x=images), x being the ONNX input name"
    try:
        with open(path, "rb") as file:              # opened here: numpy leaves its own file open after an error
            arrays = np.load(file)
            if isinstance(arrays, np.ndarray):
                raise InputError("the input is one array, not an .npz of named arrays", where=str(path), hint=hint)
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"the input cannot be read as .npz: {error}", where=str(path), hint=hint) from error


def split_arrays(arrays: dict[str, np.ndarray], acc, where: Path, images: int | None):
    """(inputs, labels) of a file, the first ``images`` of each; labels are named like an ONNX output. Raises InputError."""
    inputs = {name: array for name, array in arrays.items() if name in acc.inputs}
    labels = {name: array for name, array in arrays.items() if name in acc.outputs}
    if not inputs:
        raise InputError(f"the file holds {', '.join(map(repr, arrays)) or 'nothing'}, the network takes "
                         f"{', '.join(map(repr, acc.inputs))}", where=str(where),
                         hint="name the arrays like the ONNX inputs, images along the first axis")
    if unknown := [name for name in arrays if name not in inputs and name not in labels]:
        say(err, f"note: ignoring {', '.join(map(repr, unknown))}: neither an input nor an output of the network")
    if images is None:
        return inputs, labels
    held = min(len(array) if array.ndim else 0 for array in inputs.values())
    if not 1 <= images <= held:
        raise InputError(f"{images} images are asked for, the file holds {held}", where="option --images",
                         hint=f"ask for 1 to {held}, or leave --images out")
    return ({n: a[:images] for n, a in inputs.items()}, {n: a[:images] for n, a in labels.items()})


def accuracy(outputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of images whose largest output is the label, for every output that has integer labels, one an image."""
    return {name: float((outputs[name].reshape(len(label), -1).argmax(1) == label).mean())
            for name, label in labels.items()
            if name in outputs and label.ndim == 1 and label.dtype.kind in "iu" and len(label) == len(outputs[name])}


def table(*columns: str, rows) -> None:
    """Prints a plain table on stdout; cells are taken literally."""
    grid = Table(*columns)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    out.print(grid)


def say(console: Console, message: str) -> None:
    """One line as it is: no markup, no wrapping, so that paths can be copied."""
    console.print(Text(message), soft_wrap=True)


COLOURS = {"supported": "green", "fused": "green", "folded": "cyan", "host": "yellow", "unsupported": "red"}


@app.command(epilog="Example: `hwgen check model.onnx --shape x=1x3x224x224`")
def check(model: Model, shape: Shapes = None, json: Json = None) -> None:
    """Say for every node of a model whether it is supported, and if not, why."""
    checked = _api().check(model, shapes=parse_shapes(shape))
    nodes = [{"node": v.node, "op": v.op, "status": v.status.value, "into": v.into, "reason": v.reason} for v in checked.verdicts]
    if nodes:
        table("node", "op", "verdict", "into", "reason",
              rows=[(n["node"], n["op"], Text(n["status"], COLOURS.get(n["status"], "")), n["into"], n["reason"]) for n in nodes])
    counts = {status: sum(n["status"] == status for n in nodes) for status in dict.fromkeys(n["status"] for n in nodes)}
    say(out, f"{model}: {'supported' if checked.ok else 'not supported'}  "
             f"({', '.join(f'{n} {status}' for status, n in counts.items()) or 'no node was read'})")
    if json:
        error = checked.error and {"message": checked.error.message, "where": checked.error.where, "hint": checked.error.hint}
        write_json(json, {"model": str(model), "ok": checked.ok, "error": error, "counts": counts, "nodes": nodes})
    if checked.error:
        raise checked.error


@app.command(name="compile", epilog="Example: `hwgen compile model.onnx --target zcu104 --calib calib.npz -o build/`")
def compile_command(
    model: Model,
    target: Annotated[str, typer.Option(help="Board: a name from `hwgen targets`, or a YAML file.")] = "sim",
    calib: Annotated[Optional[str], typer.Option(metavar="FILE|random", help="Calibration images: an .npz keyed by ONNX input "
                     "name. `random` is for speed and size only; the report says so.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the build goes.")] = Path("build"),
    shape: Shapes = None,
    array: Annotated[Optional[str], typer.Option(metavar="TIxTO", help="Array size, as `32x32`; otherwise the board "
                                                 "decides.")] = None,
    method: Annotated[Method, typer.Option(help="How ranges are taken from the calibration images.")] = Method.PERCENTILE,
    backend: Annotated[Backend, typer.Option(help="`rtl`, or `hls`: a Vitis HLS project in C++, or `both`.")] = Backend.RTL,
    precision: Annotated[Precision, typer.Option(help="Bits of weights and activations: `w4a8` gives the layers of all blocks 4-bit "
                                                 "weights, `w4a8-experts` the experts only.")] = Precision.W8A8,
    batch: Annotated[int, typer.Option(min=1, help="Images worked on together: weights are read once for all of them.")] = 1,
    json: Json = None,
) -> None:
    """Turn a model into RTL or HLS C++, a program, a weight image, a driver and a simulation bench."""
    with Bars(err) as bars:
        acc = _api().compile(model, target=target, calib=calib, out=output, shapes=parse_shapes(shape), array=parse_array(array),
                             method=method.value, backend=backend.value,
                             precision=precision.value, batch=batch, progress=bars)
    data = acc.report()
    reporting.show(data, out, leave_out=("instructions",))
    if calib == "random":
        say(err, "note: calibrated with random images, so no accuracy is promised")
    say(out, f"written to {output}    next: hwgen simulate {output} --input FILE.npz{' --engine csim' * (backend is Backend.HLS)}")
    if json:
        write_json(json, data)


@app.command(epilog="Example: `hwgen simulate build/ --input test.npz --images 100 --task 1 --waves --json result.json`")
def simulate(
    build: Build,
    input: Annotated[Path, typer.Option("--input", metavar="FILE.npz", show_default=False, help="Arrays keyed by ONNX input "
                     "name, images along the first axis. Integer arrays named like an output are labels: accuracy is printed.")],
    task: Annotated[Optional[int], typer.Option(min=0, help="Run this task only; otherwise all of them.")] = None,
    engine: Annotated[Engine, typer.Option(help="`csim` is the HLS project run as C++, `golden` the integer model; neither "
                                          "simulates cycles.")] = Engine.VERILATOR,
    images: Annotated[Optional[int], typer.Option(help="Use the first N images.")] = None,
    output: Annotated[Optional[Path], typer.Option(metavar="FILE.npz", help="Write the dequantized outputs under their "
                                                   "ONNX names.")] = None,
    waves: Annotated[bool, typer.Option("--waves", help="Write an FST waveform into the build directory.")] = False,
    trace: Annotated[Optional[Path], typer.Option("--trace", metavar="FILE.json", help="Write a timeline of instructions and stalls "
                                                  "that ui.perfetto.dev opens.")] = None,
    latency: Annotated[int, typer.Option(min=0, help="Memory latency, cycles.")] = 200,
    bytes_per_cycle: Annotated[Optional[float], typer.Option(min=0.1, help="Memory bandwidth; otherwise that of one port of the board.")] = None,
    stall: Annotated[float, typer.Option(min=0.0, max=0.99, help="Probability that the memory stalls in a cycle.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the stalls.")] = 0,
    json: Json = None,
) -> None:
    """Run images through the generated hardware, cycle by cycle, and compare every output word with the integer model."""
    api = _api()
    if trace and engine is not Engine.VERILATOR:
        raise InputError("timelines are written by the engine verilator only", where="option --trace")
    acc = api.load(build)
    inputs, labels = split_arrays(load_arrays(input), acc, input, images)
    memory = api.MemoryModel(latency=latency, bytes_per_cycle=bytes_per_cycle, stall=stall, seed=seed)
    with Bars(err) as bars:
        result = acc.simulate(inputs, task=task, engine=engine.value, waves=build / "waves.fst" if waves else None, memory=memory,
                              progress=bars)
    data = result.to_dict()
    if scores := accuracy(result.outputs, labels):
        data["accuracy"] = scores
    reporting.show(data, out, title=f"simulation ({engine.value})", leave_out=("frames", "per_instruction"))
    if output:
        buffer = io.BytesIO()
        np.savez(buffer, **result.outputs)
        write_file(output, buffer.getvalue())
    if json:
        write_json(json, data)
    if trace:
        write_json(trace, acc.trace(result))
    acc.keep(result)
    if result.bit_exact is False:
        raise MismatchError(f"{result.mismatches:,} output words differ from the integer model", where=str(build),
                            hint="run again with --waves --images 1, and report it: this must not happen" if engine is not Engine.CSIM
                            else f"hwgen verify {build} --trace finds the first value that differs")


MEMORIES = {                                    # of `verify`: ideal, slow, unsteady
    "ideal": {"latency": 0, "stall": 0.0}, "latency 100": {"latency": 100, "stall": 0.0},
    "random stalls": {"latency": 20, "stall": 0.3},
}


@app.command(epilog="Example: `hwgen verify build/ --input test.npz --images 20`")
def verify(
    build: Build,
    input: Annotated[Optional[Path], typer.Option("--input", metavar="FILE.npz", help="Images to use; otherwise "
                                                  "seeded noise.")] = None,
    images: Annotated[Optional[int], typer.Option(help="Use the first N images (of the noise: 4).")] = None,
    engine: Annotated[Engine, typer.Option(help="The simulator of the RTL.")] = Engine.VERILATOR,
    trace: Annotated[bool, typer.Option("--trace", help="Also compare every intermediate value (of the RTL the outputs) and show the "
                                        "first that differs.")] = False,
    json: Json = None,
) -> None:
    """Compare what the build holds with the integer model, bit for bit: the RTL under three memory models, the C simulation."""
    api = _api()
    acc = api.load(build)
    if engine not in (Engine.VERILATOR, Engine.ICARUS):
        raise InputError(f"{engine.value} does not simulate the RTL", where="option --engine",
                         hint="choose verilator or icarus; the C simulation is compared whenever the build holds it")
    if input:
        inputs, _ = split_arrays(load_arrays(input), acc, input, images)
    else:
        random = np.random.default_rng(0)
        inputs = {name: random.standard_normal((images or 4, *shape)).astype(np.float32) for name, shape in acc.inputs.items()}
    runs = [("rtl", engine, name, memory) for name, memory in MEMORIES.items()] if "rtl" in acc.levels else []
    runs += [("csim", Engine.CSIM, "", {})] if "csim" in acc.levels else []
    rows = []
    with Bars(err) as bars:
        for level, simulator, name, memory in runs:
            result = acc.simulate(inputs, engine=simulator.value, memory=api.MemoryModel(**memory), progress=bars)
            rows.append({"level": level, "memory": name, "images": result.images, "bit_exact": result.bit_exact,
                         "mismatches": result.mismatches, "cycles_per_image": result.cycles_per_image})
        differences = acc.first_differences(inputs, progress=bars) if trace else None
    table("level", "memory", "images", "bit-exact", "mismatches", "cycles per image",
          rows=[(r["level"], r["memory"], r["images"], "yes" if r["bit_exact"] else "no", r["mismatches"], f"{r['cycles_per_image']:,.1f}")
                for r in rows])
    for difference in differences or ():
        say(out, str(difference))
    if differences == []:
        say(out, "every traced value equals the integer model's")
    if json:
        write_json(json, {"engine": engine.value, "bit_exact": all(r["bit_exact"] for r in rows), "runs": rows,
                          "differences": None if differences is None else [d.to_dict() for d in differences]})
    if failed := [r["memory"] for r in rows if r["level"] == "rtl" and not r["bit_exact"]]:
        raise MismatchError(f"the RTL differs from the integer model with memory: {', '.join(failed)}", where=str(build),
                            hint="run hwgen simulate --waves --images 1, and report it: this must not happen")
    if differences or not all(r["bit_exact"] for r in rows):
        raise MismatchError("the C simulation differs from the integer model", where=str(build),
                            hint="see the value above" if trace else f"hwgen verify {build} --trace finds the first value that differs")


@app.command(epilog="Example: `hwgen report build/ --html report.html`")
def report(
    build: Build,
    html: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Also write one self-contained HTML page.")] = None,
    json: Json = None,
) -> None:
    """Show size, speed and resources of a build; after `simulate` also where its cycles went, layer by layer."""
    data = _api().load(build).report()
    reporting.show(data, out)
    if html:
        write_file(html, reporting.html(data, f"hwgen report of {build}"))
    if json:
        write_json(json, data)


@app.command(epilog="Example: `hwgen synth build/ --flow yosys --json synth.json`")
def synth(
    build: Build,
    flow: Annotated[str, typer.Option(help="A file of the folder flows, without its ending.")] = "yosys",
    target: Annotated[Optional[str], typer.Option(help="Count for another board of the same family.")] = None,
    json: Json = None,
) -> None:
    """Synthesize the generated RTL and count its cells, unit by unit, against the board."""
    acc = _api().load(build)
    with Bars(err) as bars:
        result = acc.synth(flow, target, progress=bars)
    data = result.to_dict()
    reporting.show(data, out, title=result.stage, leave_out=("modules", "notes"))
    for note in result.notes:
        say(out, f"note: {note}")
    if json:
        write_json(json, data)


@app.command(epilog="Example: `hwgen targets --json boards.json`")
def targets(json: Json = None) -> None:
    """List the boards `--target` knows."""
    from .board import Family, boards
    known = boards()

    def amount(board, number):
        return "no limit" if board.family == Family.SIM else f"{number:,}"
    table("name", "LUT", "DSP", "BRAM36", "URAM", "GB/s", "MHz",
          rows=[(b.name, *(amount(b, n) for n in (b.lut, b.dsp, b.bram36, b.uram)), f"{b.memory_gb_s:g}", f"{b.clock_mhz:g}") for b in known])

    def memory(board):
        ports, every = board.ports, f"; all {board.ports.number}: {board.bytes_per_cycle(ports=board.ports.number):.3g}, not built"
        return f"port of {ports.bits} bits: {board.bytes_per_cycle():.3g} bytes a cycle{every if ports.number > 1 else ''}"
    for board in known:
        say(out, f"{board.name}: {board.title}" + ("" if board.family == Family.SIM else f", {board.part}") + f"; {memory(board)}")
    if json:
        write_json(json, {"targets": [asdict(b) for b in known]})


def _print_version(wanted: bool) -> None:
    if wanted:
        say(out, f"hwgen {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                   help="Print the version.")] = False):
    pass


def main(args: list[str] | None = None) -> None:
    """Entry point: an `HwgenError` becomes one message on stderr and its exit code, never a traceback."""
    try:
        app(args)
    except HwgenError as error:
        say(err, f"error: {error}")
        sys.exit(error.exit_code)
