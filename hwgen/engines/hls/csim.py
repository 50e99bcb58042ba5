"""C simulation of an HLS project: compiles the bench with the C++ compiler, runs frames, reads back outputs and traces.

The environment variable HWGEN_AP_TYPES names a folder with other ap_int.h and hls_stream.h (those of Vitis HLS or the open
copies); otherwise the small ones of hls/stub serve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import os
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...numerics import LOW_OFFSET
from ...output import work_folder
from ...steps.format import ACCUMULATOR
from ...steps.step import Quantized
from ...tools import cache, cxx, native
from ..protocol import Conditions, Result
from .call import ALL_TASKS, Follow
from .plan import Plan
from .products import Head
from .project import frames as sent_frames

FLAGS = ("-std=c++14", "-O2")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wno-unknown-pragmas")      # g++ does not know "#pragma HLS"
SOURCES = ("hwgen_top.cpp", "csim/main.cpp")
SUFFIXES = (".hpp", ".cpp", ".h")


@dataclass(frozen=True)
class CsimRun:
    """outputs: per frame {ONNX output: int32 [channels]}; traces: per frame {value: int64 [T, C]}, empty unless asked for."""

    outputs: list[dict[str, np.ndarray]]
    traces: list[dict[str, np.ndarray]]
    seconds: float

    def __repr__(self) -> str:
        return f"<CsimRun: {len(self.outputs)} frames>"


def compiler_flags(folder: str | Path, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Options for a source that includes kernels. Raises InputError when HWGEN_AP_TYPES names no such folder."""
    types = [str(Path(folder, "stub"))]
    if named := os.environ.get("HWGEN_AP_TYPES"):
        if not (Path(named) / "ap_int.h").is_file():
            raise InputError(f"there is no ap_int.h in {named!r}", where="environment variable HWGEN_AP_TYPES",
                             hint="name the folder that holds it, or unset the variable")
        types.insert(0, str(Path(named).resolve()))
        extra = (*extra, "-Wno-maybe-uninitialized", "-Wno-uninitialized")         # inside those headers
    includes = [word for place in types for word in ("-isystem", place)]
    return (*FLAGS, *WARNINGS, *extra, f"-I{folder}", f"-I{Path(folder, 'include')}", *includes)


def build_bench(files: Mapping[str, str | bytes], extra: Sequence[str] = ()) -> Path:
    """Compile the bench of an HLS project; returns the executable. files: by their names in the build ("hls/..."; others are left out).

    It lies in the cache: the same sources and options are compiled once. Raises ToolError, InputError.
    """
    flags = compiler_flags(".", extra)
    data = {name.removeprefix("hls/"): content.encode() if isinstance(content, str) else content for name, content in sorted(files.items())
            if name.startswith("hls/") and name.endswith(SUFFIXES)}
    types: list[str] = []
    if named := os.environ.get("HWGEN_AP_TYPES"):
        types = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(Path(named).rglob("*.h*")) if path.is_file()]

    def make(work: Path) -> None:
        for name, content in data.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        cxx.compile(SOURCES, "csim.out", flags, cwd=work)
    return cache.entry("csim", cache.key("csim", cxx.version(), *flags, data.items(), *types), make) / "csim.out"


def simulate(plan: Plan, model: Quantized, files: Mapping[str, bytes], images: np.ndarray, tasks: list[int], how: Conditions) -> Result:
    """Run every image for every task through an HLS project. files: those in ``hls/`` of a build.

    Frames come image by image, all tasks of each in a row. The run of the result is a `CsimRun`. Raises ToolError when the project does not
    compile or run.
    """
    how.say(f"compile the C simulation ({cache.how_often()})", 0, 0)
    executable = build_bench(files)
    sent = np.repeat(sent_frames(plan, model, images), len(tasks), axis=0)
    how.say("C simulation", 0, len(sent))
    done = run(executable, files["hls/weights.bin"], plan, sent, tasks * len(images), trace=how.trace,
               lengths=[length for length in how.lengths for _ in tasks],
               on_frame=lambda count: how.say("C simulation", count, len(sent)))
    outputs = {task: {name: np.stack([done.outputs[i][name] for i in range(n, len(done.outputs), len(tasks))]) for name, *_ in plan.outputs[task]}
               for n, task in enumerate(tasks)}
    return Result(outputs, None, done.seconds, len(sent), (done,))


def run(executable: Path, weights: bytes, plan: Plan, frames: np.ndarray, tasks: list[int], *, trace: bool = False,
        lengths: Sequence[int] = (), on_frame: Callable[[int], None] | None = None) -> CsimRun:
    """Run frames uint8 [F, bytes]; frame f for ``tasks[f]``, with ``lengths[f]`` tokens if there are any. Raises ToolError when the bench
    fails."""
    with work_folder("hwgen_csim_") as work:
        frames.tofile(work / "input.bin")
        (work / "weights.bin").write_bytes(weights)
        options: dict[str, object] = {"weights": work / "weights.bin", "input": work / "input.bin", "output": work / "output.bin",
                                          "frames": len(tasks), "tasks": ",".join(map(str, tasks))}
        if trace:
            options["trace"] = work / "trace.bin"
        if lengths:
            options["lengths"] = ",".join(map(str, lengths))
        result = native.run(executable, options, on_frame)
        words = np.fromfile(work / "output.bin", ACCUMULATOR.stored).reshape(len(tasks), -1)
        outputs = [{name: row[place:place + length] for name, place, length in plan.outputs[task]}
                   for row, task in zip(words, tasks, strict=True)]
        traces = read_trace((work / "trace.bin").read_bytes(), plan, tasks, lengths) if trace else []
    for values, row, task in zip(traces, words, tasks, strict=False):
        values |= {step.names[task]: row[step.place:step.place + step.length].astype(np.int64) for step in plan.steps
                   if isinstance(step, Head) and step.task in (ALL_TASKS, task)}
    return CsimRun(outputs, traces, result["seconds"])


def read_trace(data: bytes, plan: Plan, tasks: list[int], lengths: Sequence[int] = ()) -> list[dict[str, np.ndarray]]:
    """What the bench wrote -> per frame {value: int64 [T, C]}; a router's logits under ``<value>.logits``."""
    frames: list[dict[str, np.ndarray]] = []
    place, last = 0, len(plan.steps)
    while place < len(data):
        index, count = np.frombuffer(data, "<u4", 2, place).tolist()
        if index <= last:
            frames.append({})
        last = index
        step = plan.steps[index]
        kind, tokens, channels = step.traced()
        if lengths and step.follows & Follow.TARGET:
            tokens = lengths[len(frames) - 1]
        name = step.names[tasks[len(frames) - 1]] + (".logits" if step.kind == "ROUTE" else "")
        held = -(-channels // plan.lanes) * tokens * plan.lanes
        halves = 2 if step.wide[1] else 1
        words = np.frombuffer(data, kind, halves * held, place + 8).reshape(halves, -1, tokens, plan.lanes).transpose(0, 2, 1, 3)
        first, *rest = words.reshape(halves, tokens, -1)[..., :channels].astype(np.int64)
        if name:                                                     # a part of a value completes none
            frames[-1][name] = 256 * first + rest[0] + LOW_OFFSET if rest else first
        place += 8 + count
    return frames
