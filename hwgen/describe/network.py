"""Entries of the network and of what an engine makes of it: a summary of the build, and its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
import inspect
from pathlib import Path
import re
import sys

from ..build import Build
from ..engine import retire_latency
from ..engines.rtl import text as program_text
from ..isa import FIELDS, Dst, Op, Src, Stat
from ..page.words import digits, percent, plural
from ..registers import REGISTERS, registers_of
from ..steps import text as steps_text
from ..steps.format import Format
from ..steps.stages import FEEDS, STAGES, TILES
from ..steps.step import Network, Step
from ..steps.tensor import Memory, Tensor
from .entry import Entry, table, told

FIGURES = ("estimate", "simulation", "limits", "resources", "hls", "quantization")  # of a report
SETTINGS = 5  # of an engine, on a line
MEMORIES = {
    "act_words": "activations, 8 bits",
    "kv_words": "keys and values, 8 bits",
    "score_words": "scores, 16 bits",
    "res_words": "residual stream, 16 bits",
    "operand_words": "operands of the drain, 16 bits",
    "list_words": "lists of tokens",
}


def names(build: Build) -> set[str]:
    """Every name of the network, the program and the registers."""
    found = {name for name, _ in FIELDS} | {r.name for r in REGISTERS} | set(build.inputs)
    found |= {member.name for enum in (Op, Src, Stat, Dst) for member in enum}
    for network in build.model.tasks:
        found |= {network.name, *(o.name for o in network.outputs), *(o.tensor.name for o in network.outputs)}
        for step in network.steps:
            found |= {step.name, step.value, step.node, step.feed.name, *(stage.name for stage in step.drain)}
            found |= {view.tensor.name for view in (*step.sinks, *([step.source_view] if step.source_view else []))}
            found |= set(re.findall(r"[\w./:-]+", steps_text.line(step)))
    if build.program is not None:
        found |= {b.name for b in build.program.buffers} | {i.note for i in build.program.instrs} | set(build.program.config.to_dict())
    return found | {build.report.get("network", {}).get("name", "")}


def summary(build: Build) -> Iterator[Entry]:
    """Network, engine, registers, memory map, program, figures with their stages."""
    yield _network(build)
    if build.program is not None:
        yield from (_engine(build), _registers(build), _memory(build), _program(build))
    if build.has_hls:
        yield _hls(build)
    yield _figures(build)


def _network(build: Build) -> Entry:
    report, networks = build.report, build.model.tasks
    name = str(report.get("network", {}).get("name", ""))
    rows = [
        (f"`{n.name}`", str(len(n.steps)), f"{n.useful_macs:,}", ", ".join(f"`{o.name}` {list(o.shape)}" for o in n.outputs))
        for n in networks
    ]
    inputs = ", ".join(f"`{value}` {list(shape)}" for value, shape in build.inputs.items())
    text = (
        f"The network `{name}` takes {inputs}; weights and activations: {report.get('precision', 'w8a8')}. It is a list of steps: each streams a "
        "tensor past a stationary operand, and drains the result through stages."
    )
    whole = f"{text}\n\n{table(('task', 'steps', 'multiply-accumulates of an image', 'outputs'), rows)}"
    tasks = [{"name": n.name, "steps": len(n.steps), "macs": n.useful_macs} for n in networks]
    return Entry("summary", "network", name, whole, _listing(networks), "text", {"tasks": tasks})


def _listing(networks: Sequence[Network]) -> str:
    """The steps of the first task, and of the others those that are not like one of it."""
    lines = steps_text.text(networks[0]).splitlines()
    first = {line.partition(" ; ")[0].rstrip() for line in lines}
    for network in networks[1:]:
        own = steps_text.text(network).splitlines()
        other = [line for line in own[1:] if line.partition(" ; ")[0].rstrip() not in first and "… these" not in line]
        lines += [own[0], *other, f"the other lines are those of {networks[0].name}"]
    return "\n".join(lines)


def _engine(build: Build) -> Entry:
    c = build.need_rtl().config
    text = (
        f"The engine has an array of {c.ti} x {c.to} multiply-accumulates{', two in a DSP slice' if c.packed else ''}: {c.ti} channels of one token "
        f"come in a cycle, and {c.to} sums leave. From the issue of the last token of an instruction to the issue of one that waits for it there are "
        f"{retire_latency(c)} cycles. Its memory is a port of {c.axi_data_bits} bits at {build.bytes_per_cycle:.3g} bytes a cycle; the clock is "
        f"assumed to be {build.clock_mhz:g} MHz."
    )
    rows = [(f"`{name}`", f"{getattr(c, name):,}", what) for name, what in MEMORIES.items() if getattr(c, name)]
    more = f"Activation functions: {', '.join(c.functions)}."
    more += f" The router takes up to {c.max_experts} experts, {c.max_top_k} a token." if c.max_experts else ""
    whole = f"{text}\n\n{table(('memory', 'words', 'what'), rows)}\n\n{more}"
    return Entry("summary", "engine", f"{c.ti}x{c.to} for {build.target}", whole, _settings(c.to_dict()), "text", {"digest": c.digest})


def _registers(build: Build) -> Entry:
    registers = registers_of(build.need_rtl().config)
    text = (
        f"{plural(len(registers), 'register')} of 32 bits behind AXI4-Lite, each below with its byte offset, access and meaning: "
        f"{', '.join(f'`{r.name}`' for r in registers)}."
    )
    header = build.read(["driver/registers.h"])["driver/registers.h"].decode()
    facts = {"registers": [[r.name, r.offset, r.access.value] for r in registers]}
    return Entry("summary", "registers", "of the accelerator", text, header, "c", facts)


def _settings(values: Mapping[str, object]) -> str:
    """Those that are set, as ``name = value``, several on a line."""
    pieces = [f"{name} = {value}" for name, value in values.items() if value not in (0, False, "", None)]
    return "\n".join("   ".join(pieces[start : start + SETTINGS]) for start in range(0, len(pieces), SETTINGS))


def _program(build: Build) -> Entry:
    program = build.need_rtl()
    kinds = {op: sum(i.op == op for i in program.instrs) for op in Op}
    text = (
        f"The program has {plural(len(program.instrs), 'instruction')} of 64 bytes: "
        f"{', '.join(f'{count} {op.name}' for op, count in kinds.items() if count)}. It runs once a frame, and a frame is "
        f"{plural(program.batch, 'image')} for one of {plural(program.num_tasks, 'task')}. A task passes over the instructions of the others."
    )
    facts = {"instructions": len(program.instrs), "tasks": program.num_tasks, "batch": program.batch}
    return Entry("summary", "program", f"of {len(program.instrs)} instructions", text, program_text.text(program), "text", facts)


def _memory(build: Build) -> Entry:
    program = build.need_rtl()
    lines = [f"{b.memory:8} {b.base:6} .. {b.base + b.words - 1:6}  instructions {b.first} to {b.last}  {b.name}" for b in program.buffers]
    used = {b.memory: max(o.base + o.words for o in program.buffers if o.memory == b.memory) for b in program.buffers}
    text = (
        "Values that are not alive at the same time share words. "
        + ", ".join(f"{memory}: {words} words used" for memory, words in used.items())
        + "."
    )
    return Entry(
        "summary",
        "memory map",
        "of the engine",
        f"{text} Input: {program.input_bytes:,} bytes a frame; weight image: {len(program.image):,} bytes, read once "
        f"a frame, in order; output: {program.output_bytes:,} bytes a frame.",
        "\n".join(lines),
        "text",
        {"buffers": len(program.buffers), "weight_bytes": len(program.image)},
    )


def _hls(build: Build) -> Entry:
    found = build.report.get("hls", {})
    text = (
        f"The HLS engine is C++ for Vitis HLS: {found.get('lanes')} lanes, {found.get('queries')} queries at a time, {found.get('macs_per_cycle')} "
        "multiply-accumulates a cycle. Its top function reads the weight image through one stream and runs a table of steps."
    )
    files = build.read(["hls/hwgen_config.hpp", "hls/hwgen_top.cpp"])
    return Entry(
        "summary",
        "engine",
        "in HLS C++",
        text,
        "\n".join(data.decode() for data in files.values()),
        "cpp",
        {"lanes": found.get("lanes"), "queries": found.get("queries")},
    )


def _figures(build: Build) -> Entry:
    """Each with the stage it comes from."""
    kept, _ = build.kept()
    data = {key: value for key, value in (build.report | kept).items() if key in FIGURES and isinstance(value, dict)}
    rows: list[tuple[str, str, str]] = []
    for key, of in (("estimate", "RTL engine"), ("simulation", "RTL engine"), ("hls", "HLS engine")):
        one = data.get(key, {})
        stage = one.get("stage", key)
        if "cycles_per_image" in one:
            rows.append((f"cycles of an image, {of}", digits(one["cycles_per_image"]), stage))
            rows.append((f"latency at {build.clock_mhz:g} MHz (assumed), {of}", f"{digits(one['latency_ms'])} ms", stage))
        if one.get("utilization") is not None:
            rows.append((f"array used, {of}", percent(one["utilization"]), stage))
    if limits := data.get("limits"):
        array, memory = (digits(limits[f"{what}_limit_cycles"]) for what in ("array", "memory"))
        rows.append(("what limits it", f"{limits['bound_by']} ({array} cycles of the array, {memory} of the memory)", limits["stage"]))
    resources, quantization = data.get("resources", {}), data.get("quantization", {})
    rows += [(kind.upper(), f"{count:,}", resources["stage"]) for kind, count in resources.get("used", {}).items()]
    errors = quantization.get("output_error") or {}
    rows += [(f"relative error of the output {name}", digits(error), quantization.get("stage", "")) for name, error in errors.items()]
    figures = {key: {name: value for name, value in one.items() if not isinstance(value, list)} for key, one in data.items()}
    text = "No figure is of hardware that was built: an estimate is computed, a simulation counts cycles."
    text += "" if "simulation" in data else " This build was not simulated yet."
    whole = f"{text}\n\n{table(('figure', 'value', 'stage'), rows)}"
    return Entry("summary", "figures", "with their stages", whole, "", "text", figures)


def steps(build: Build, known: Collection[str]) -> Iterator[Entry]:
    """An entry a note: the steps that come from one part of the work of an ONNX node, and their instructions; then what instructions are left."""
    groups: dict[str, dict[str, Step]] = {}
    for step in (step for network in build.model.tasks for step in network.steps):
        groups.setdefault(step.note, {}).setdefault(steps_text.line(step), step)
    free = dict(enumerate(build.program.instrs)) if build.program else {}
    roles = _roles(build)
    for note, members in groups.items():
        own = [pc for pc, instr in free.items() if instr.note == note or instr.note.startswith((f"{note}, ", f"{note} "))]
        code = [*members, *(["", *(f"{pc:4} {free.pop(pc)}" for pc in own)] if own else [])]
        several = list(members.values())
        facts = {"steps": [s.name for s in several], "node": several[0].node, "macs": sum(s.macs for s in several), "instructions": own}
        yield Entry(
            "block",
            "step",
            note,
            "\n\n".join(_step(step, known, roles, build.program is not None and not own) for step in several),
            "\n".join(code),
            "text",
            facts,
        )
    for pc, instr in free.items():
        text = f"Instruction {pc}: {instr.note or 'the frame ends'}."
        yield Entry("block", "instruction", f"{pc} {instr.note}".rstrip(), text, f"{pc:4} {instr}", "text", {"instructions": [pc]})


def _roles(build: Build) -> dict[Tensor, dict[str, None]]:
    """{value: memories of the RTL engine that it goes to} of those that are read in several ways: as data, or as keys and values."""
    found: dict[Tensor, dict[str, None]] = {}
    for step in (step for network in build.model.tasks if build.program for step in network.steps):
        if step.source_view is not None:
            found.setdefault(step.source_view.tensor, {})[step.source_view.tensor.memory] = None
        if step.tile.stationary is not None:
            found.setdefault(step.tile.stationary.tensor, {})[Memory.KV] = None
    return found


def _step(step: Step, known: Collection[str], roles: Mapping[Tensor, Collection[str]], passed: bool) -> str:
    """A step in words. roles: memories of values; passed: the program has no instruction for it."""
    text = [
        f"The step `{step.name}`"
        + (f" is of the ONNX node `{step.node}`" + (f" ({step.about})" if step.about else "") if step.node else f": {step.about}")
        + "."
    ]
    if step.source_view is not None:
        view = step.source_view
        text.append(
            f"It streams `{view.tensor.name}`, {view.tensor.format} [{view.tokens.count}, {view.channels.count}]"
            + (f", by heads ({step.heads})" if step.heads > 1 else "")
            + "."
        )
    text.append(f"Feed `{step.feed.name}`: {_doc(step.feed, known)}")
    text.append(f"Stationary operand, {step.tile}: {_doc(step.tile, known)}")
    text += [f"Stage {number}, `{stage.name}`: {_doc(stage, known)}" for number, stage in enumerate(step.drain, 1)]
    on_the_way = passed and step.source_view is not None and not step.tile.multiplies and not step.drain
    sinks = ", ".join(
        f"`{s.tensor.name}` ({s.tensor.format} [{s.tokens.count}, {s.channels.count}]"
        + ("" if on_the_way else f", memory {' and '.join(roles.get(s.tensor, (s.tensor.memory,)))}")
        + ")"
        for s in step.sinks
    )
    text.append(f"The result goes to {sinks}." + (f" Kept of it: {', '.join(step.keeps)}." if step.keeps else ""))
    if passed:
        text.append("The program has no instruction of its own for it" + (": those that stream its result do it." if on_the_way else "."))
    text += [f"{step.macs:,} multiply-accumulates of an image."] if step.macs else []
    return " ".join(text)


def _doc(record: object, known: Collection[str]) -> str:
    """What the source of a feed, an operand or a stage says of it: its first paragraph, of its fields only names, formats and numbers, with what
    the source says of a number that is not 0."""
    kind = type(record)
    names = [field.name for field in fields(record)] if is_dataclass(record) else []
    paragraph = " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())
    text, *pieces = re.split(rf"(?:^|(?<=[.;])\s)`*({'|'.join(names)})`*:\s", paragraph) if names else [paragraph]
    meant = dict(zip(pieces[::2], (piece.rstrip(".;") for piece in pieces[1::2]), strict=True))
    values = []
    for name in names:
        value = getattr(record, name)
        if isinstance(value, int) and value:
            values.append(f"{name} = {value}" + (f" ({meant[name]})" if name in meant else ""))
        elif isinstance(value, (str, Format)):
            values.append(f"{name} = {value}")
    whole = f"{text.rstrip('.;')}{'; here ' if values else ''}{', '.join(values)}."
    return told(whole, known, _source_names(kind.__module__))


@cache
def _source_names(module: str) -> frozenset[str]:
    source = Path(sys.modules[module].__file__ or "").read_text()
    kinds = {kind.__name__ for kind in (*FEEDS, *STAGES, *TILES)}
    return frozenset(kinds | set(re.findall(r"[A-Za-z_]\w*", re.sub(r'"""(.*?)"""', "", source, flags=re.DOTALL))))
