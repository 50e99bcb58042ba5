"""What an engine is: something that plans the steps of a model for a board, writes the files of a plan, and says what it costs.

Engines know steps, layout and devices, and nothing of each other. What one cannot say is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ..devices.board import Board
from ..devices.memory import MemoryModel
from ..steps.step import Quantized

PlanT = TypeVar("PlanT")
Files = dict[str, str | bytes]
"""{path relative to the build directory: content}"""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user may ask of an engine. array: (rows, columns) instead of the engine's choice; batch: images worked on together."""

    array: tuple[int, int] | None = None
    batch: int = 1


def silent(stage: str, done: int = 0, total: int = 0) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Conditions:
    """Of a run. memory: behind the ports; simulator: what runs the RTL; waves: file that gets a waveform; trace: keep every value; say:
    progress (stage, done, total); lengths: tokens of each image's sequence, of a network that takes fewer, or none. What an engine cannot honour
    was refused before (`hwgen.run.simulate`)."""

    memory: MemoryModel = field(default_factory=MemoryModel)
    simulator: str = "verilator"
    waves: Path | None = None
    say: Callable[[str, int, int], None] = silent
    trace: bool = False
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Result:
    """What images gave. outputs: {task: {ONNX output: int32 [images, channels]}}. cycles: busy cycles of all frames, None of an engine
    without a clock; seconds: of the simulation; frames: images that were run, each for each task; runs: what the engine keeps of each run."""

    outputs: Mapping[int, Mapping[str, np.ndarray]]
    cycles: int | None
    seconds: float
    frames: int
    runs: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a plan. batch: images of a frame; weight_bytes: of the weight image, and what it would have with 8-bit weights only; useful_macs:
    multiply-accumulates of one image without padding, on the average of the tasks. notes: what people should know of the plan."""

    batch: int
    weight_bytes: int
    weight_bytes_with_8_bits: int
    useful_macs: int
    notes: tuple[str, ...] = ()


class Engine(Protocol[PlanT]):
    """An engine; `hwgen.engines.registry` lists them."""

    name: str

    def plan(self, model: Quantized, board: Board, wishes: Wishes) -> PlanT:
        """Raises CapacityError of this engine, InputError for a wish that it does not know, with the next step."""

    def files(self, plan: PlanT, model: Quantized, name: str, board: Board, images: np.ndarray) -> Files:
        """What a build holds of it. name: of the network, for comments; images: float [B, ...], a few for a test bench."""

    def run(self, plan: PlanT, model: Quantized, files: Mapping[str, bytes], images: np.ndarray, tasks: list[int], how: Conditions) -> Result:
        """Run images, float [B, ...], each for each task, through what ``files`` of a build holds of it. Raises ToolError."""

    def facts(self, plan: PlanT) -> Facts:
        """Single figures of a plan."""

    def cost(self, plan: PlanT, model: Quantized, board: Board) -> dict[str, Any]:
        """Its sections of report.json, each with its stage."""
