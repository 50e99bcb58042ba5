"""One C simulation for many networks: the engine of hls/tests/any, the step table read at run time. For tests and for bench/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hwgen import csim
from hwgen.backends import hls
from hwgen.backends.hls_plan import KINDS, TARGETS, Plan, Step, plan
from hwgen.functions import Act
from hwgen.golden import integer_model
from hwgen.paths import data_dir
from hwgen.qir import QAttention, QHead, QLinear, QModel, QMoE, QNorm, QResidualInit
from hwgen.render import render
from hwgen.tools import cxx

LANES, QUERIES = 16, 4
LIMITS = dict(max_tokens=64, head_words=5, max_experts=16, max_top_k=4, act_words=4096, residual_words=512, logit_words=64)


def write_project(folder: Path, act: Act, kernels: Path | None = None) -> Path:
    """The HLS folder of the any-network engine for one activation function; ``kernels`` instead of hls/."""
    kernels = kernels or data_dir("hls")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("include", "stub"):
        if not (folder / name).exists():
            (folder / name).symlink_to(kernels / name)
    for path in (kernels / "tests" / "any").iterdir():
        (folder / path.name).write_text(path.read_text())
    sizes = dict(weight_words=1, input_words=1, output_words=1)
    (folder / "hwgen_top.cpp").write_text(render("hls/hwgen_top.cpp.j2", name="any", version="test", plan=sizes, fifo_words=64, burst=16))
    (folder / "hwgen_top.hpp").write_text(render("hls/hwgen_top.hpp.j2", name="any", version="test"))
    (folder / "hwgen_tables.hpp").write_text(hls.tables(act))
    (folder / "main.cpp").write_text((data_dir("templates") / "hls" / "csim.cpp").read_text())
    return folder


def build(folder: Path, act: Act, extra=("-Werror",), kernels: Path | None = None) -> Path:
    """Compiles it; returns the executable."""
    project = write_project(folder, act, kernels)
    return cxx.compile([project / name for name in ("hwgen_top.cpp", "main.cpp", "network.cpp")], project / "bin" / "csim",
                       csim.compiler_flags(project, list(extra)))


def make_plan(model: QModel) -> Plan:
    """The plan for this engine; raises ValueError when the network is too large for it."""
    result = plan(model, LANES, QUERIES)
    large = {name: getattr(result, name) for name, limit in LIMITS.items() if getattr(result, name) > limit}
    if large or len(result.steps) > 256:
        raise ValueError(f"the test's engine is too small: {large}, {len(result.steps)} steps")
    return result


def table(made: Plan, num_tasks: int) -> bytes:
    """What hls/tests/any/network.cpp reads."""
    sizes = [len(made.steps), num_tasks, made.input_words, made.output_words, made.weight_words, made.digest]
    return np.array([*sizes, *(word for step in made.steps for word in _fields(step))], "<i8").tobytes()


def _fields(step: Step) -> list[int]:
    node, zero = step.node, (0, 0)
    src, dst, keys, values = (getattr(step, name) for name in ("src", "dst", "keys", "values"))
    tokens, in_channels = (src.tokens, src.channels) if src else (dst.tokens, dst.channels) if dst else node.table.shape
    count, size, first, out, eps, renormalize = 0, 0, zero, zero, 0, 0
    out_channels = step.out_channels
    dst_address = step.place if isinstance(node, QHead) else dst.address if dst else 0
    match node:
        case QNorm():
            first, out, eps = (node.inv_mult, node.inv_shift), (node.mult, node.shift), node.eps
        case QResidualInit():
            in_channels, out_channels = 0, node.table.shape[1]
        case QAttention():
            count, size = node.num_heads, src.channels // node.num_heads
            first, out = (node.score_mult, node.score_shift), (node.out_mult, node.out_shift)
        case QLinear() if node.act:
            out = (node.act.mult, node.act.shift)
        case QMoE() if step.kind == "ROUTE":
            count, size, renormalize = step.out_channels, node.top_k, int(node.renormalize)
        case QMoE():
            count, size, out = len(node.first), dst.channels, (node.act.mult, node.act.shift)
    return [KINDS.index(step.kind), step.task, TARGETS.index(step.target), renormalize, tokens, step.dst_tokens, step.first_token, step.rows,
            in_channels, out_channels, count, size, src.address if src else 0, keys.address if keys else 0, values.address if values else 0,
            dst_address, *first, *out, eps, step.weights]


def run(executable: Path, folder: Path, model: QModel, images: np.ndarray) -> tuple[csim.CsimRun, list[int]]:
    """All tasks of every image through the network's C simulation, traced: (run, task of each frame)."""
    made = make_plan(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.bin").write_bytes(table(made, len(model.tasks)))
    (folder / "weights.bin").write_bytes(made.weight_file())
    tasks = list(range(len(model.tasks)))
    os.environ["HWGEN_NETWORK"] = str(folder / "network.bin")
    frames = np.repeat(hls.frames(made, model, images), len(tasks), axis=0)
    return csim.run(executable, (folder / "weights.bin").read_bytes(), made, frames, tasks * len(images), trace=True), tasks * len(images)


def differing(model: QModel, images: np.ndarray, done: csim.CsimRun, tasks: list[int]) -> tuple[int, list[str]]:
    """(values compared, names of those that differ) between a traced run and the integer model; router logits included."""
    count, wrong = 0, []
    for frame, (task, trace) in enumerate(zip(tasks, done.traces, strict=True)):
        wanted = integer_model.trace(model.tasks[task], images[frame // len(model.tasks)][None], detail=True)
        missing = {node.output for node in model.tasks[task].nodes} - trace.keys()
        wrong += [f"{name} is missing" for name in missing]
        for name, value in trace.items():
            count += 1
            if not np.array_equal(value, wanted[name][0]):
                wrong.append(f"frame {frame}: {name}")
    return count, wrong
