"""Commands from a model to a run: check, compile, simulate, verify."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .. import report as reporting
from ..arrays import accuracy, parse_array, parse_lengths, parse_shapes, read_npz, split_arrays
from ..choices import Backend, Method, Precision, Simulator
from ..errors import InputError, MismatchError, OutputError
from ..output import write_file, write_json
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
    TargetAccuracy,
    TargetSnr,
)
from .terminal import say, table


def check(model: Model, target: Target = "sim", calib: Calib = None, shape: Shapes = None, array: Array = None,
          method: MethodOption = Method.MINMAX, backend: BackendOption = Backend.RTL,
          precision: PrecisionOption = Precision.W8A8, batch: Batch = 1, quant: Quant = None, allow_host: AllowHost = False,
          lengths: Lengths = False, target_snr: TargetSnr = None, target_accuracy: TargetAccuracy = None, json: Json = None) -> None:
    """Say for every node of a model whether it is supported, and if not, why; and whether `compile` takes it with the same options."""
    with Bars(terminal.err) as bars:
        checked = terminal.api().check(model, parse_shapes(shape), target=target, calib=calib, array=parse_array(array), method=method.value,
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
        say(terminal.out, f"… and {len(nodes) - len(shown):,} nodes more: `--json FILE` lists them all")
    refused = nodes and not counts.get("unsupported")
    say(terminal.out, f"{model}: {'supported' if checked.ok else 'not taken with these options' if refused else 'not supported'}  "
             f"({', '.join(f'{n} {status}' for status, n in counts.items()) or 'no node was read'})")
    if checked.onnx:
        say(terminal.out, reporting.judged(checked.onnx))
    for warning in checked.warnings:
        say(terminal.err, f"warning: {warning}")
    if checked.error:
        raise checked.error


def compile_command(
    model: Model, target: Target = "sim", calib: Calib = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", parser=terminal.folder, help="Where the build goes.")] = Path("build"),
    shape: Shapes = None, array: Array = None, method: MethodOption = Method.MINMAX, backend: BackendOption = Backend.RTL,
    precision: PrecisionOption = Precision.W8A8, batch: Batch = 1, quant: Quant = None, allow_host: AllowHost = False,
    lengths: Lengths = False, target_snr: TargetSnr = None, target_accuracy: TargetAccuracy = None, json: Json = None,
) -> None:
    """Turn a model into RTL or HLS C++, a program, a weight image, a driver and a simulation bench."""
    with Bars(terminal.err) as bars:
        acc = terminal.api().compile(model, target=target, calib=calib, out=output, shapes=parse_shapes(shape), array=parse_array(array),
                             method=method.value, backend=backend.value, precision=precision.value, batch=batch, quant=quant,
                             allow_host=allow_host, lengths=lengths, target_snr=target_snr, target_accuracy=target_accuracy, progress=bars)
    data = acc.report()
    if json:
        write_json(json, data)
    reporting.show(reporting.brief(data), terminal.out, first=("estimate", "resources", "quantization"))
    say(terminal.out, reporting.judged({**data, **data["onnx"]}))
    notes = ["note: calibrated with seeded noise, so accuracy is unknown; give --calib FILE.npz"] if data["calibration"] == "random" else []
    for line in (*(f"warning: {warning}" for warning in data["warnings"]), *notes):
        say(terminal.err, line)
    say(terminal.out, f"written to {output}    next: hwgen simulate {output} --input FILE.npz{' --engine csim' * (backend is Backend.HLS)}")
    say(terminal.out, f"all figures and settings: hwgen report {output}")


def simulate(
    build: Build,
    input: Annotated[Path, typer.Option("--input", metavar="FILE.npz", show_default=False, help="Arrays keyed by ONNX input "
                     "name, images along the first axis. Integer arrays named like an output are labels: accuracy is printed.")],
    task: Annotated[int | None, typer.Option(min=0, help="Run this task only; otherwise all of them.")] = None,
    engine: Annotated[Simulator, typer.Option(help="`csim` is the HLS project run as C++, `golden` the integer model; neither "
                                          "simulates cycles.")] = Simulator.VERILATOR,
    images: Annotated[int | None, typer.Option(min=1, help="Use the first N images.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE.npz", callback=terminal.result, help="Write the dequantized outputs under their "
                                                   "ONNX names.")] = None,
    waves: Annotated[bool, typer.Option("--waves", help="Write an FST waveform into the build directory.")] = False,
    trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE.json", callback=terminal.result,
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
    from ..run.simulate import check_memory
    api = terminal.api()
    if trace and engine is not Simulator.VERILATOR:
        raise InputError("timelines are written by the engine verilator only", where="option --trace")
    given = {name: value for name, value in {"latency": latency, "bytes_per_cycle": bytes_per_cycle, "stall": stall, "seed": seed}.items()
             if value is not None}
    check_memory(engine.value, given)
    acc = api.load(build)
    inputs, labels = split_arrays(read_npz(input, "the input", InputError), acc, input, images, lambda text: say(terminal.err, text))
    memory = api.MemoryModel(**given)
    with Bars(terminal.err) as bars:
        result = acc.simulate(inputs, task=task, engine=engine.value, waves=build / "waves.fst" if waves else None, memory=memory,
                              lengths=parse_lengths(lengths), progress=bars)
    data = result.to_dict()
    if scores := accuracy(result.outputs, labels):
        data["accuracy"] = scores
    if result.input_clipped:
        say(terminal.err, f"note: {100 * result.input_clipped:.3g} % of the input values lie beyond the calibrated range and are clipped")
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
        say(terminal.err, f"note: {error.message}; hwgen report will not show this simulation")
    known = {key: value for key, value in data.items() if value is not None}
    reporting.show(known, terminal.out, title=f"simulation ({engine.value})", first=reporting.RESULT, leave_out=("frames", "per_instruction"))
    if result.bit_exact is False:
        raise MismatchError(f"{result.mismatches:,} output words differ from the integer model", where=str(build),
                            hint="run again with --waves --images 1, and report it: this must not happen" if engine is not Simulator.CSIM
                            else f"hwgen verify {build} --trace finds the first value that differs")


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
    from ..run.simulate import MemoryModel, verify_memories
    api = terminal.api()
    acc = api.load(build)
    if engine not in (Simulator.VERILATOR, Simulator.ICARUS):
        raise InputError(f"{engine.value} does not simulate the RTL", where="option --engine",
                         hint="choose verilator or icarus; the C simulation is compared whenever the build holds it")
    if input:
        inputs, _ = split_arrays(read_npz(input, "the input", InputError), acc, input, images, lambda text: say(terminal.err, text))
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
    with Bars(terminal.err) as bars:
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
        say(terminal.out, str(difference))
    if differences == []:
        say(terminal.out, "every traced value equals the integer model's")
    if failed := [r["memory"] for r in rows if r["level"] == "rtl" and not r["bit_exact"]]:
        raise MismatchError(f"the RTL differs from the integer model with memory: {', '.join(failed)}", where=str(build),
                            hint="run hwgen simulate --waves --images 1, and report it: this must not happen")
    if differences or not all(r["bit_exact"] for r in rows):
        raise MismatchError("the C simulation differs from the integer model", where=str(build),
                            hint="see the value above" if trace else f"hwgen verify {build} --trace finds the first value that differs")
