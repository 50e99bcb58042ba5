"""One C simulation for many networks: the engine of hls/tests/any, the step table read at run time. For tests and for bench/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import os
from pathlib import Path

import numpy as np

from hwgen.engines.hls import csim, frames
from hwgen.engines.hls.attention import Attention, BiasedAttention
from hwgen.engines.hls.call import Call, part
from hwgen.engines.hls.experts import Experts, Router, ScoreRouter
from hwgen.engines.hls.mixed import Mixed
from hwgen.engines.hls.pick import Attended as AttendedCall, Moved, Picks, RowPicks
from hwgen.engines.hls.plan import Plan, plan
from hwgen.engines.hls.products import (
    Features,
    Head,
    LinearActivated,
    LinearGated,
    LinearMultiplied,
    LinearResidual,
    LinearRotated,
    Product,
    behind,
)
from hwgen.engines.hls.project import tables
from hwgen.engines.hls.scale import Scaled, ScaledHead, ScaledTurned
from hwgen.engines.hls.start import LayerNorm, Rescaled, ResidualInit, Tokens
from hwgen.functions import Act
from hwgen.paths import data_dir
from hwgen.render import render
from hwgen.steps import golden
from hwgen.steps.passes.lengths import shortened
from hwgen.steps.stages import Normalize, Requant, Rescale, RowFactor, Table
from hwgen.steps.step import Quantized
from hwgen.steps.tensor import Memory
from hwgen.tools import cxx

KINDS = ("PATCHES", "RESIDUAL_INIT", "LAYER_NORM", "LINEAR", "ATTENTION", "ROUTE", "EXPERTS", "TOKENS", "RESIDUAL_ADD", "RESCALE",
         "CONSTANT", "SCALE", "OPERANDS", "CHOOSE", "PICK", "ATTENDED")
TARGETS = ("ACT", "ACTIVATED", "RESIDUAL", "WEIGHED", "LOGITS", "OUTPUT", "OPERAND", "MULTIPLIED", "SCORES", "ROTATED")
FIELDS = ("kind", "task", "target", "renormalize", "tokens", "dst_tokens", "first_token", "rows", "in_channels", "out_channels", "count",
          "size", "src", "keys", "values", "dst", "first.mult", "first.shift", "out.mult", "out.shift", "eps", "weights", "function",
          "wide_source", "wide_result", "frac", "limit", "operand", "follows", "rms", "fresh", "stream",
          "biased", "value_size", "taps", "key_rows", "mixed")       # of hwgen::Step
LANES, QUERIES = 16, 4
LIMITS = {"max_tokens": 64, "head_words": 5, "max_experts": 16, "max_top_k": 4, "act_words": 4096, "residual_words": 512, "logit_words": 64,
          "operand_words": 512, "list_size": 1024}


def write_project(folder: Path, acts: tuple[Act, ...], kernels: Path | None = None) -> Path:
    """The HLS folder of the any-network engine for activation functions, numbered so; ``kernels`` instead of hls/."""
    kernels = kernels or data_dir("hls")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("include", "stub"):
        if not (folder / name).exists():
            (folder / name).symlink_to(kernels / name)
    for path in (kernels / "tests" / "any").iterdir():
        (folder / path.name).write_text(path.read_text())
    sizes = {"weight_words": 1, "input_words": 1, "output_words": 1, "lengths": 64}
    (folder / "hwgen_top.cpp").write_text(render("hls/hwgen_top.cpp.j2", name="any", version="test", plan=sizes, fifo_words=64, burst=16))
    (folder / "hwgen_top.hpp").write_text(render("hls/hwgen_top.hpp.j2", name="any", version="test", plan=sizes))
    (folder / "hwgen_tables.hpp").write_text(tables(tuple(kind.value for kind in acts)))
    (folder / "main.cpp").write_text((data_dir("templates") / "hls" / "csim.cpp").read_text())
    return folder


def build(folder: Path, acts: tuple[Act, ...], extra=("-Werror",), kernels: Path | None = None) -> Path:
    """Compiles it; returns the executable."""
    project = write_project(folder, acts, kernels)
    return cxx.compile([project / name for name in ("hwgen_top.cpp", "main.cpp", "network.cpp")], project / "bin" / "csim",
                       csim.compiler_flags(project, list(extra)))


def make_plan(model: Quantized, functions: tuple[str, ...] = ()) -> Plan:
    """The plan for this engine; raises ValueError when the network is too large for it. functions: of the engine, as it numbers them, where
    they are more than the network's first ones."""
    result = plan(model, LANES, QUERIES)
    if functions:
        result = replace(result, functions=functions, steps=tuple(replace(step, functions=functions) for step in result.steps))
    large = {name: getattr(result, name) for name, limit in LIMITS.items() if getattr(result, name) > limit}
    if large or len(result.steps) > 256:
        raise ValueError(f"the test's engine is too small: {large}, {len(result.steps)} steps")
    return result


def table(made: Plan, num_tasks: int) -> bytes:
    """What hls/tests/any/network.cpp reads."""
    sizes = [len(made.steps), num_tasks, made.input_words, made.output_words, made.weight_words, made.digest]
    return np.array([*sizes, *(word for step in made.steps for word in _fields(step))], "<i8").tobytes()


def _fields(step: Call) -> list[int]:
    found = {"kind": KINDS.index(step.kind), "task": step.task, "target": TARGETS.index(step.target), "weights": step.weights,
             "follows": int(step.follows)}
    found |= {role: value.address for role, value in step.operands.items()}
    for role in ("dst", "src"):
        if role in step.operands:
            found |= {"tokens": step.operands[role].tokens, "in_channels": step.operands[role].channels}
    found |= {"rms": int(step.rms), "fresh": int(step.fresh), "stream": step.written}
    if isinstance(step, (LayerNorm, Scaled)):
        found |= {"src": step.read}
    if isinstance(step, Mixed):
        found |= dict(mixed=1, values=step.operands["values"].address + step.held.tokens.start, size=step.held.tensor.tokens, count=step.ones,
                      **_factor("first", part(step.steps[0], Requant).factor))
    if isinstance(step, Product):
        first = 0 if step.taps else step.source.tokens.start
        found |= {"src": step.src.address + first, "rows": step.streamed, "dst_tokens": step.streamed, "out_channels": step.channels,
                  "taps": step.taps}
        if step.INTO_ROWS:
            found |= {"dst_tokens": step.dst.tokens, "first_token": step.steps[0].sink.tokens.start}
    found |= dict(zip(("wide_source", "wide_result"), map(int, step.wide), strict=True))
    match step:
        case ResidualInit() | Tokens():
            found |= dict(zip(("tokens", "out_channels"), step.size, strict=True))
        case Rescaled():
            found |= {"eps": 1, **_factor("out", part(step.steps[0], Rescale).out)}
        case LayerNorm():
            feed = part(step.steps[0], Normalize)
            found |= dict(eps=feed.eps, **_factor("first", feed.mean), **_factor("out", feed.out))
        case Moved():
            place, rows = step.target_rows, step.source.tokens
            found |= dict(tokens=step.source.tensor.tokens, in_channels=step.source.channels.count, out_channels=place.tensor.channels, eps=1, limit=1,
                          **_factor("out", part(step.steps[0], Rescale).out), keys=0 if step.listed else rows.start, rows=step.steps[0].tokens,
                          first_token=place.tokens.start, dst_tokens=place.tensor.tokens, taps=int(step.listed))
        case RowPicks():
            found |= {"count": 1, "size": step.pick.keep, "renormalize": int(step.pick.ranked), "keys": step.pick.first, "tokens": step.tokens, "rows": step.tokens,
                      "dst_tokens": step.tokens, "out_channels": 1, "limit": 1, "src": step.read, "target": TARGETS.index("LOGITS"), "stream": 0}
        case AttendedCall():
            keys = step.operands["keys"]
            found |= dict(tokens=keys.tokens, key_rows=keys.tokens, rows=step.src.tokens, first_token=step.steps[0].source.tokens.start,
                          limit=keys.tokens - step.columns, count=step.heads, size=step.src.channels // step.heads, in_channels=0, dst_tokens=0,
                          frac=step.steps[0].sink.tensor.format.frac, **_factor("first", part(step.steps[0], Requant).factor),
                          **_factor("out", part(step.steps[1], RowFactor).factor))
        case Picks():
            found |= {"count": 1, "size": step.pick.keep, "renormalize": int(step.pick.ranked), "keys": step.pick.first, "dst_tokens": step.src.tokens}
        case Scaled():
            feed, place, channels = part(step.steps[0], Normalize), step.target_rows, step.source.channels.count
            found |= dict(tokens=step.source.tensor.tokens, in_channels=channels,
                          out_channels=place.tensor.channels, eps=feed.eps, **_factor("first", feed.mean),
                          **_factor("out", feed.out), keys=step.source.tokens.start, rows=step.source.tokens.count,
                          first_token=place.channels.start if isinstance(step, ScaledHead) else place.tokens.start, dst_tokens=place.tensor.tokens)
            if isinstance(step, ScaledTurned):
                turns = step.operands["operand"]
                found |= {"operand": turns.address, "values": turns.tokens, "size": turns.channels, "frac": step.shift}
        case LinearActivated():
            found |= _factor("out", behind(part(step.steps[0], Table))) | {"function": _function(step), "frac": part(step.steps[0], Table).x.frac}
        case LinearMultiplied():
            found |= {"out.mult": 1, "out.shift": step.shift}
            found |= {"function": _function(step), "frac": step.frac} if isinstance(step, LinearGated) else {}
            if isinstance(step, LinearRotated):
                found |= {"first_token": step.operands["operand"].tokens, "size": step.operands["operand"].channels}
        case LinearResidual():
            found |= {"first_token": step.target_rows.tokens.start, "dst_tokens": step.target_rows.tensor.tokens}
        case Head():
            found |= {"src": step.src.address, "first_token": 0 if step.taps else step.source.tokens.start, "dst": step.place,
                      "dst_tokens": step.streamed if isinstance(step, Features) else 1}
        case Attention():
            found |= dict(tokens=step.held.tokens.count, rows=step.queries.tokens.count, dst_tokens=step.src.tokens, key_rows=step.held.tensor.tokens, count=step.heads, size=step.src.channels // step.heads,
                          **_factor("first", part(step.steps[0], Requant).factor), **_factor("out", part(step.steps[1], RowFactor).factor),
                          frac=step.steps[0].sink.tensor.format.frac, limit=step.limit, biased=int(isinstance(step, BiasedAttention)),
                          value_size=step.dst.channels // step.heads, first_token=step.queries.tokens.start)
            found |= {role: found[role] + first for role, first in zip(("src", "keys", "values"), (step.queries.tokens.start, *(step.held.tokens.start,) * 2), strict=True)}
            found |= {"out_channels": found["rows"], "in_channels": found["tokens"]} if isinstance(step, BiasedAttention) else {}
        case Router():
            found |= {"count": step.channels, "size": step.route.top_k, "renormalize": int(step.route.renormalize)}
            if isinstance(step, ScoreRouter):
                found |= _factor("out", behind(part(step.steps[0], Table))) | {"function": _function(step), "frac": part(step.steps[0], Table).x.frac}
        case Experts():
            found |= dict(rows=step.src.tokens, dst_tokens=step.src.tokens, out_channels=step.dst.channels, count=step.count,
                          size=step.dst.channels, function=step.functions.index(step.activation), frac=step.table.x.frac, **_factor("out", step.factor(step.firsts[0])))
    return [found.pop(field, 0) for field in FIELDS] + list(found.values())            # nothing is left over


def _function(step: Call) -> int:
    return step.functions.index(part(step.steps[0], Table).function)


def _factor(name: str, factor) -> dict[str, int]:
    return {f"{name}.mult": factor.mult, f"{name}.shift": factor.shift}


def run(executable: Path, folder: Path, model: Quantized, images: np.ndarray, lengths: Sequence[int] = (),
        functions: tuple[str, ...] = ()) -> tuple[csim.CsimRun, list[int]]:
    """All tasks of every image through the network's C simulation, traced: (run, task of each frame). lengths: of each image's sequence;
    functions: see `make_plan`."""
    made = make_plan(model, functions)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.bin").write_bytes(table(made, len(model.tasks)))
    (folder / "weights.bin").write_bytes(made.weight_file())
    tasks = list(range(len(model.tasks)))
    os.environ["HWGEN_NETWORK"] = str(folder / "network.bin")
    sent = np.repeat(frames(made, model, images), len(tasks), axis=0)
    found = csim.run(executable, (folder / "weights.bin").read_bytes(), made, sent, tasks * len(images), trace=True,
                     lengths=[length for length in lengths for _ in tasks])
    return found, tasks * len(images)


def differing(model: Quantized, images: np.ndarray, done: csim.CsimRun, tasks: list[int], lengths: Sequence[int] = ()) -> tuple[int, list[str]]:
    """(values compared, names of those that differ) between a traced run and the integer model; router logits included. Of outputs of shorter
    sequences the words that count."""
    count, wrong = 0, []
    for frame, (task, trace) in enumerate(zip(tasks, done.traces, strict=True)):
        image = frame // len(model.tasks)
        network, tokens = (shortened(model.tasks[task], lengths[image]), images[image][None, :lengths[image]]) if lengths \
            else (model.tasks[task], images[image][None])
        wanted = golden.trace(network, tokens, detail=True)
        constants = {step.value for step in model.tasks[task].steps if step.sink.tensor.memory is Memory.OPERAND and step.feed.constant is not None}
        missing = {step.value for step in model.tasks[task].steps} - trace.keys()
        wrong += [f"{name} is missing" for name in missing]
        for name, value in trace.items():
            count += 1
            value = value[:wanted[name].size] if lengths and value.ndim == 1 else value[:len(wanted[name][0])] if lengths and name in constants else value
            if not np.array_equal(value, wanted[name][0]):
                wrong.append(f"frame {frame}: {name}")
    return count, wrong
