"""The command line. Every command is a thin shell round `hwgen.api`; what it prints, ``--json`` holds for programs.

`ending` has the exit codes.
"""

from __future__ import annotations

from contextlib import suppress
import io
from pathlib import Path
import sys
from typing import Annotated

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
import typer

from . import __version__, ending, report as reporting
from .arrays import accuracy, parse_array, parse_lengths, parse_shapes, read_npz, split_arrays
from .choices import Backend, Method, Precision, Simulator, Stage
from .errors import HwgenError, InputError, MismatchError, OutputError
from .foreign import visible
from .output import is_stdout, write_file, write_json
from .progress import Bars

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="From a trained transformer in ONNX to a hardware accelerator, proven bit-exact by simulation.",
                  epilog="Exit codes: 0 good, 1 a comparison failed, 2 bad input or a full disk, 3 a tool is missing or failed, "
                         "4 a fault of hwgen itself (a log is written), 130 Ctrl-C, 141 closed pipe, 143 terminated.")


class Terminal(Console):
    """Standard output or error. Raises OutputError when it cannot be written."""

    def print(self, *objects, **options) -> None:
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            ending.silence()
            where = "standard error" if self.stderr else "standard output"
            raise OutputError(f"cannot write: {error.strerror or error}", where=where) from error


out, err = Terminal(), Terminal(stderr=True)


def _result(path: Path | None) -> Path | None:
    """Of an option that takes a file to write: when it is ``-``, what people read goes to standard error."""
    if path is not None and is_stdout(path):
        if out.stderr:
            raise typer.BadParameter("only one result can go to standard output")
        out.stderr = True
    return path


Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", callback=_result,
                                              help="Also write the result as JSON; `-` is standard output.")]
Shapes = Annotated[list[str] | None, typer.Option("--shape", metavar="NAME=DIMS", help="Fix a dynamic input shape, as "
                                                     "`--shape x=1x3x224x224`. May be given several times.")]
Build = Annotated[Path, typer.Argument(help="Directory that `hwgen compile` wrote.", show_default=False)]
Model = Annotated[Path, typer.Argument(help="The ONNX file.", show_default=False)]


def _api():
    """The compiler, loaded on first use (it pulls in onnx)."""
    from . import api
    return api


def table(*columns: str, rows) -> None:
    """Prints a plain table on stdout; cells are taken literally."""
    grid = Table(*columns)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    out.print(grid)


def say(console: Console, message: str) -> None:
    """One message as it is: no markup, no wrapping, so that paths can be copied."""
    console.print(Text(visible(message, keep="\n\t")), soft_wrap=True)


Target = Annotated[str, typer.Option(help="Board: a name from `hwgen targets`, or a YAML file.")]
Calib = Annotated[str | None, typer.Option(metavar="FILE|random", help="Calibration images: an .npz keyed by ONNX input name. Without, "
                                              "seeded noise: accuracy is unknown then.")]
Array = Annotated[str | None, typer.Option(metavar="TIxTO", help="Array size of the RTL engine, as `32x32`; otherwise the board decides.")]
MethodOption = Annotated[Method, typer.Option(help="How ranges are taken from the calibration images.")]
BackendOption = Annotated[Backend, typer.Option(help="`rtl`, or `hls`: a Vitis HLS project in C++, or `both`.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Bits of weights and activations: `w4a8` gives the layers of all blocks 4-bit "
                                                    "weights, `w4a8-experts` the experts only; `w8a16` gives what they read 16 bits, in twice "
                                                    "the cycles; `mixed` keeps in 16 bits what a target needs.")]
Quant = Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Rules for single layers, by ONNX node name or pattern: method, bits, scale, "
                                                                        "bias_correction.",
                                            show_default=False)]
AllowHost = Annotated[bool, typer.Option("--allow-host", help="What there are no steps for may run on the host, however much it is; otherwise up to "
                                         "5 % of the multiply-accumulates (25 % in a file with fewer than two blocks).")]
TargetSnr = Annotated[float | None, typer.Option(help="Of `--precision mixed`: signal to noise ratio of the worst output, in dB, on the calibration "
                                                 "images.")]
TargetAccuracy = Annotated[float | None, typer.Option(help="Of `--precision mixed`: share of the labels in the calibration set, 0 to 1.")]
Lengths = Annotated[bool, typer.Option("--lengths", help="A run says how many tokens of its sequence there are, and takes the cycles of so many.")]
Batch = Annotated[int, typer.Option(min=1, help="Images worked on together: weights are read once for all of them.")]


@app.command(epilog="Example: `hwgen check model.onnx --shape x=1x3x224x224`")
def check(model: Model, target: Target = "sim", calib: Calib = None, shape: Shapes = None, array: Array = None,
          method: MethodOption = Method.MINMAX, backend: BackendOption = Backend.RTL,
          precision: PrecisionOption = Precision.W8A8, batch: Batch = 1, quant: Quant = None, allow_host: AllowHost = False,
          lengths: Lengths = False, target_snr: TargetSnr = None, target_accuracy: TargetAccuracy = None, json: Json = None) -> None:
    """Say for every node of a model whether it is supported, and if not, why; and whether `compile` takes it with the same options."""
    with Bars(err) as bars:
        checked = _api().check(model, parse_shapes(shape), target=target, calib=calib, array=parse_array(array), method=method.value,
                               backend=backend.value, precision=precision.value, batch=batch, quant=quant, allow_host=allow_host, lengths=lengths,
                               target_snr=target_snr, target_accuracy=target_accuracy, progress=bars)
    nodes = [{"node": v.node, "op": v.op, "status": v.status.value, "into": v.into, "reason": v.reason} for v in checked.verdicts]
    shown = reporting.verdicts(nodes)
    counts = {status: sum(n["status"] == status for n in nodes) for status in dict.fromkeys(n["status"] for n in nodes)}
    if json:
        error = checked.error and checked.error.to_dict()
        write_json(json, {"model": str(model), "ok": checked.ok, "error": error, **(checked.onnx or {}), "warnings": list(checked.warnings),
                          "counts": counts, "nodes": nodes, **({"host": checked.host} if checked.host else {})})
    if nodes:
        table("node", "op", "verdict", "into", "reason", rows=shown)
    if len(shown) < len(nodes):
        say(out, f"… and {len(nodes) - len(shown):,} nodes more: `--json FILE` lists them all")
    refused = nodes and not counts.get("unsupported")
    say(out, f"{model}: {'supported' if checked.ok else 'not taken with these options' if refused else 'not supported'}  "
             f"({', '.join(f'{n} {status}' for status, n in counts.items()) or 'no node was read'})")
    if checked.onnx:
        say(out, reporting.judged(checked.onnx))
    for warning in checked.warnings:
        say(err, f"warning: {warning}")
    if checked.error:
        raise checked.error


@app.command(name="compile", epilog="Example: `hwgen compile model.onnx --target zcu104 --calib calib.npz -o build/`")
def compile_command(
    model: Model, target: Target = "sim", calib: Calib = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the build goes.")] = Path("build"),
    shape: Shapes = None, array: Array = None, method: MethodOption = Method.MINMAX, backend: BackendOption = Backend.RTL,
    precision: PrecisionOption = Precision.W8A8, batch: Batch = 1, quant: Quant = None, allow_host: AllowHost = False,
    lengths: Lengths = False, target_snr: TargetSnr = None, target_accuracy: TargetAccuracy = None, json: Json = None,
) -> None:
    """Turn a model into RTL or HLS C++, a program, a weight image, a driver and a simulation bench."""
    with Bars(err) as bars:
        acc = _api().compile(model, target=target, calib=calib, out=output, shapes=parse_shapes(shape), array=parse_array(array),
                             method=method.value, backend=backend.value, precision=precision.value, batch=batch, quant=quant,
                             allow_host=allow_host, lengths=lengths, target_snr=target_snr, target_accuracy=target_accuracy, progress=bars)
    data = acc.report()
    if json:
        write_json(json, data)
    reporting.show(reporting.brief(data), out, first=("estimate", "resources", "quantization"))
    say(out, reporting.judged({**data, **data["onnx"]}))
    notes = ["note: calibrated with seeded noise, so accuracy is unknown; give --calib FILE.npz"] if data["calibration"] == "random" else []
    for line in (*(f"warning: {warning}" for warning in data["warnings"]), *notes):
        say(err, line)
    say(out, f"written to {output}    next: hwgen simulate {output} --input FILE.npz{' --engine csim' * (backend is Backend.HLS)}")
    say(out, f"all figures and settings: hwgen report {output}")


@app.command(epilog="Example: `hwgen simulate build/ --input test.npz --images 100 --task 1 --waves --json result.json`")
def simulate(
    build: Build,
    input: Annotated[Path, typer.Option("--input", metavar="FILE.npz", show_default=False, help="Arrays keyed by ONNX input "
                     "name, images along the first axis. Integer arrays named like an output are labels: accuracy is printed.")],
    task: Annotated[int | None, typer.Option(min=0, help="Run this task only; otherwise all of them.")] = None,
    engine: Annotated[Simulator, typer.Option(help="`csim` is the HLS project run as C++, `golden` the integer model; neither "
                                          "simulates cycles.")] = Simulator.VERILATOR,
    images: Annotated[int | None, typer.Option(min=1, help="Use the first N images.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE.npz", callback=_result, help="Write the dequantized outputs under their "
                                                   "ONNX names.")] = None,
    waves: Annotated[bool, typer.Option("--waves", help="Write an FST waveform into the build directory.")] = False,
    trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE.json", callback=_result,
                                                  help="Write a timeline of instructions and stalls that ui.perfetto.dev opens.")] = None,
    latency: Annotated[int | None, typer.Option(min=0, help="Memory latency, cycles; otherwise 200.")] = None,
    bytes_per_cycle: Annotated[float | None, typer.Option(min=0.1, help="Memory bandwidth; otherwise that of one port of the "
                                                             "board.")] = None,
    stall: Annotated[float | None, typer.Option(min=0.0, max=0.99, help="Probability that the memory stalls in a cycle; otherwise "
                                                   "0.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the stalls; otherwise 0.")] = None,
    lengths: Annotated[str | None, typer.Option(metavar="N,N,…", help="Of a build for lengths: tokens of each image's sequence, used again from "
                                                                     "the first on; otherwise all.")] = None,
    json: Json = None,
) -> None:
    """Run images through the generated hardware, cycle by cycle, and compare every output word with the integer model."""
    from .run.simulate import check_memory
    api = _api()
    if trace and engine is not Simulator.VERILATOR:
        raise InputError("timelines are written by the engine verilator only", where="option --trace")
    given = {name: value for name, value in {"latency": latency, "bytes_per_cycle": bytes_per_cycle, "stall": stall, "seed": seed}.items()
             if value is not None}
    check_memory(engine.value, given)
    acc = api.load(build)
    inputs, labels = split_arrays(read_npz(input, "the input", InputError), acc, input, images, lambda text: say(err, text))
    memory = api.MemoryModel(**given)
    with Bars(err) as bars:
        result = acc.simulate(inputs, task=task, engine=engine.value, waves=build / "waves.fst" if waves else None, memory=memory,
                              lengths=parse_lengths(lengths), progress=bars)
    data = result.to_dict()
    if scores := accuracy(result.outputs, labels):
        data["accuracy"] = scores
    if result.input_clipped:
        say(err, f"note: {100 * result.input_clipped:.3g} % of the input values lie beyond the calibrated range and are clipped")
    if output:
        buffer = io.BytesIO()
        np.savez(buffer, **result.outputs)
        write_file(output, buffer.getvalue())
    if json:
        write_json(json, data)
    if trace:
        write_json(trace, acc.trace(result))
    try:
        acc.keep(result)
    except OutputError as error:                # a read-only build: everything but this is done
        say(err, f"note: {error.message}; hwgen report will not show this simulation")
    known = {key: value for key, value in data.items() if value is not None}
    reporting.show(known, out, title=f"simulation ({engine.value})", first=reporting.RESULT, leave_out=("frames", "per_instruction"))
    if result.bit_exact is False:
        raise MismatchError(f"{result.mismatches:,} output words differ from the integer model", where=str(build),
                            hint="run again with --waves --images 1, and report it: this must not happen" if engine is not Simulator.CSIM
                            else f"hwgen verify {build} --trace finds the first value that differs")


@app.command(epilog="Example: `hwgen verify build/ --input test.npz --images 20`")
def verify(
    build: Build,
    input: Annotated[Path | None, typer.Option("--input", metavar="FILE.npz", help="Images to use; otherwise "
                                                  "seeded noise.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Use the first N images (of the noise: 4).")] = None,
    engine: Annotated[Simulator, typer.Option(help="The simulator of the RTL.")] = Simulator.VERILATOR,
    trace: Annotated[bool, typer.Option("--trace", help="Also compare every intermediate value (of the RTL the outputs) and show the "
                                        "first that differs.")] = False,
    json: Json = None,
) -> None:
    """Compare what the build holds with the integer model, bit for bit: the RTL under several memory models, the C simulation."""
    from .run.simulate import MemoryModel, verify_memories
    api = _api()
    acc = api.load(build)
    if engine not in (Simulator.VERILATOR, Simulator.ICARUS):
        raise InputError(f"{engine.value} does not simulate the RTL", where="option --engine",
                         hint="choose verilator or icarus; the C simulation is compared whenever the build holds it")
    if input:
        inputs, _ = split_arrays(read_npz(input, "the input", InputError), acc, input, images, lambda text: say(err, text))
    else:
        random = np.random.default_rng(0)
        inputs = {value.name: value.noise(random, images or 4) for value in acc.values}
    runs: list[tuple[str, Simulator, str, MemoryModel]] = []
    if "rtl" in acc.levels:
        memories = verify_memories(engine.value, acc.build.need_rtl().config.axi_data_bits / 8)
        runs += [("rtl", engine, name, memory) for name, memory in memories.items()]
    if "csim" in acc.levels:
        runs.append(("csim", Simulator.CSIM, "", MemoryModel()))
    rows = []
    with Bars(err) as bars:
        for level, simulator, name, memory in runs:
            result = acc.simulate(inputs, engine=simulator.value, memory=memory, lengths=acc.some_lengths(inputs), progress=bars)
            rows.append({"level": level, "memory": name, "images": result.images, "bit_exact": result.bit_exact,
                         "mismatches": result.mismatches, "cycles_per_image": result.cycles_per_image})
        differences = acc.first_differences(inputs, progress=bars, lengths=acc.some_lengths(inputs)) if trace else None
    if json:
        write_json(json, {"engine": engine.value, "bit_exact": all(r["bit_exact"] for r in rows), "runs": rows,
                          "differences": None if differences is None else [d.to_dict() for d in differences]})
    table("level", "memory", "images", "bit-exact", "mismatches", "cycles per image",
          rows=[(r["level"], r["memory"], r["images"], "yes" if r["bit_exact"] else "no", r["mismatches"],
                 reporting.text("", r["cycles_per_image"])) for r in rows])
    for difference in differences or ():
        say(out, str(difference))
    if differences == []:
        say(out, "every traced value equals the integer model's")
    if failed := [r["memory"] for r in rows if r["level"] == "rtl" and not r["bit_exact"]]:
        raise MismatchError(f"the RTL differs from the integer model with memory: {', '.join(failed)}", where=str(build),
                            hint="run hwgen simulate --waves --images 1, and report it: this must not happen")
    if differences or not all(r["bit_exact"] for r in rows):
        raise MismatchError("the C simulation differs from the integer model", where=str(build),
                            hint="see the value above" if trace else f"hwgen verify {build} --trace finds the first value that differs")


@app.command(epilog="Example: `hwgen report build/ --html report.html`")
def report(
    build: Build,
    html: Annotated[Path | None, typer.Option(metavar="FILE", callback=_result, help="Also write one self-contained HTML page.")] = None,
    json: Json = None,
) -> None:
    """Show size, speed and resources of a build; after `simulate` also where its cycles went, layer by layer."""
    data = _api().load(build).report()
    if html:
        write_file(html, reporting.html(data, f"hwgen report of {build}"))
    if json:
        write_json(json, data)
    reporting.show(data, out)


@app.command(epilog="Example: `hwgen show build/ --stage steps --node attn`")
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
    with Bars(err) as bars:
        shown = _api().show(source, stage, node, everything, shapes=parse_shapes(shape), target=target, calib=calib, array=parse_array(array),
                            method=method.value, precision=precision.value, batch=batch, quant=quant,
                            allow_host=allow_host, progress=bars)
    if json:
        write_json(json, {"of": shown.of, "stage": shown.stage, "lines": shown.lines})
    say(out, shown.text.rstrip("\n"))


@app.command(epilog="Example: `hwgen synth build/ --flow yosys --json synth.json`")
def synth(
    build: Build,
    flow: Annotated[str, typer.Option(help="A file of the folder flows, without its ending.")] = "yosys",
    target: Annotated[str | None, typer.Option(help="Count for another board of the same family.")] = None,
    json: Json = None,
) -> None:
    """Synthesize the generated RTL and count its cells, unit by unit, against the board."""
    acc = _api().load(build)
    with Bars(err) as bars:
        result = acc.synth(flow, target, progress=bars)
    data = result.to_dict()
    if json:
        write_json(json, data)
    reporting.show(data, out, title=result.stage, leave_out=("modules", "notes"))
    for note in result.notes:
        say(out, f"note: {note}")


@app.command(epilog="Example: `hwgen targets --json boards.json`")
def targets(json: Json = None) -> None:
    """List the boards `--target` knows."""
    from .devices.board import boards
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
        say(out, f"{board.name}: {board.title}" + (f", {board.part}" if board.family.limits else "") + f"; {memory(board)}")
    for text in dict.fromkeys(text for board in known for text in board.family.not_measured):
        names = ", ".join(board.name for board in known if text in board.family.not_measured)
        say(out, f"note: resources on {names} are planning figures: {text}")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(out, f"hwgen {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                                           help="Print the version.")] = False):
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(args: list[str] | None = None) -> None:
    """Entry point. Whatever goes wrong is one message on stderr and an exit code (`ending`), never a traceback."""
    out.stderr = False
    ending.any_terminal()
    try:
        with ending.stopping():
            app(args)
    except SystemExit as stop:
        if stop.code == 1 and isinstance(stop.__context__, BrokenPipeError):      # rich and typer make 1 of it
            ending.silence()
            sys.exit(ending.CLOSED_PIPE)
        raise
    except Exception as error:              # the last handler: the only place that takes every error
        known = error if isinstance(error, HwgenError) else ending.explained(error)
        _last_words(f"error: {known or ending.fault(error)}")
        sys.exit(known.exit_code if known else ending.FAULT)


def _last_words(message: str) -> None:
    """A message to standard error, if that can still be written."""
    with suppress(OutputError, SystemExit):  # full or closed: the exit code has to do
        say(err, message)
