"""Native benches for tests and for bench/: one Verilator build per engine, shared by all programs that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import hashlib
from pathlib import Path

import numpy as np

from hwgen import build as builds
from hwgen.devices.board import load_board
from hwgen.devices.memory import MemoryModel
from hwgen.engine import EngineConfig
from hwgen.engines.rtl import bench as rtl_bench, driver, verilog as rtl
from hwgen.engines.rtl.bench import Run
from hwgen.engines.rtl.engine import RtlEngine
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.program import Program
from hwgen.paths import data_dir
from hwgen.steps import golden
from hwgen.steps.step import Quantized

IDEAL, SLOW, STALLED = MemoryModel(0, 1024), MemoryModel(100, 64), MemoryModel(20, 16, 0.3, 7)
MEMORIES = (IDEAL, SLOW, STALLED)
DEPTHS = {"act_words": 512, "kv_words": 256, "score_words": 256, "res_words": 128, "program_words": 128}


def bench_source() -> dict[str, str]:
    """The native bench of every build."""
    return {"bench/main.cpp": (data_dir("templates") / "bench" / "main.cpp").read_text()}


def write(folder: Path, model: Quantized, program: Program) -> builds.Build:
    """A whole build directory of an integer network, as `hwgen.compile` makes it from ONNX."""
    shape = _image_shape(model)
    files = RtlEngine().files(program, model, "random", load_board("sim"), np.zeros((1, *shape)))
    builds.write(folder, files, model, program, {}, inputs={"x": shape}, target="sim", clock_mhz=300.0, bytes_per_cycle=64.0)
    return builds.load(folder)


def _image_shape(model: Quantized) -> tuple[int, int, int]:
    """[C, H, W] of a network of `qgraphs`: one row of patches."""
    host, patches = model.tasks[0].input
    high, wide = host.window.kernel
    return patches.channels // (high * wide), high, wide * patches.tokens


@dataclass
class Engine:
    """One array with memories of fixed depth, compiled once. ``bench`` compiles the C++ main for a program, once per content."""

    folder: Path
    ti: int
    to: int
    axi_data_bits: int
    options: dict = field(default_factory=dict)          # of `EngineConfig`, over the program's own
    packed: bool = False
    load_columns: int = 1
    fifo_beats: int = 64

    def program(self, model: Quantized, **options) -> Program:
        """The network's program for this engine; options of `schedule`."""
        program = schedule(model, ti=self.ti, to=self.to, axi_data_bits=self.axi_data_bits, fifo_beats=self.fifo_beats,
                           packed=self.packed, load_columns=self.load_columns, **options)
        sizes = DEPTHS | self.options
        config = replace(program.config, **sizes)
        small = {name: (getattr(program.config, name), value) for name, value in sizes.items()
                 if isinstance(value, int) and getattr(program.config, name) > value}
        if small or config.max_tokens != program.config.max_tokens:
            raise ValueError(f"the test's engine is too small: {small}, {program.config.max_tokens} tokens")
        if config.functions[:len(program.config.functions)] == program.config.functions:
            return replace(program, config=config)
        return schedule(model, ti=self.ti, to=self.to, axi_data_bits=self.axi_data_bits, fifo_beats=self.fifo_beats, packed=self.packed,
                        load_columns=self.load_columns, **options, engine=config)

    def bench(self, program: Program, model: Quantized) -> tuple[Path, Path]:
        """(executable, directory with the program) of one program."""
        data = {"program.bin": program.binary(), "weights.bin": program.image}
        place = self.folder / hashlib.sha256(repr(data).encode()).hexdigest()[:16]
        place.mkdir(parents=True, exist_ok=True)
        for name, content in data.items():
            (place / name).write_bytes(content)
        files = {**rtl_files(program.config), **bench_source(), **driver.files(program, model, "random")}
        return rtl_bench.build_bench(files, trace=False), place

    def run(self, program: Program, model: Quantized, images: np.ndarray, tasks: list[int], memory: MemoryModel, runs: int = 1,
            lengths: Sequence[int] = ()) -> Run:
        """Frames ``images`` for ``tasks`` through the RTL. lengths: of the sequence of each."""
        executable, place = self.bench(program, model)
        return rtl_bench.run_bench(executable, place, program, program.frames(model.tasks[0], images), tasks, memory, runs=runs,
                                   lengths=lengths)


_RTL: dict[EngineConfig, dict[str, str]] = {}


def rtl_files(config: EngineConfig) -> dict[str, str]:
    """`rtl.files`, kept."""
    if config not in _RTL:
        _RTL[config] = rtl.files(config)
    return _RTL[config]


def differences(run: Run, model: Quantized, images: np.ndarray, tasks: list[int]) -> int:
    """Output words of a run that are not the integer model's; tasks: of each frame of one image or a batch. Raises ValueError when outputs are missing."""
    wrong = 0
    batch = len(images) // len(tasks)
    for task, image, found in zip(np.repeat(tasks, batch), images, run.outputs, strict=True):
        wanted = golden.run(model.tasks[task], image[None])
        if found.keys() != wanted.keys() or any(found[name].shape != wanted[name][0].shape for name in wanted):
            raise ValueError(f"outputs {sorted(found)} are not {sorted(wanted)}")
        wrong += sum(int((found[name] != wanted[name][0]).sum()) for name in wanted)
    return wrong
