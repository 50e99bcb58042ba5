"""What the RTL engine runs: instructions, memory map, weight image, and where inputs and outputs of a frame lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...engine import EngineConfig
from ...isa import Instr, Op, followed, words
from ...layout import image
from ...steps.format import ACCUMULATOR
from ...steps.host import quantize_input
from ...steps.step import Network
from . import cycles

PAGE = 4096


def shape_of(config: EngineConfig) -> image.Shape:
    """Of the array, for the layout of the streams."""
    return image.Shape(config.ti, config.to, config.vector_bytes)


@dataclass(frozen=True, slots=True)
class OutputSlice:
    """Where a token of an output of one image lies in a frame's output of one task: words (of ``to`` int32) ``word``, ``word + step``, ...
    hold ``channels`` values. tap: it leaves for comparison (``taps``) and is no output of the network."""

    name: str
    image: int
    word: int
    step: int
    channels: int
    token: int = 0
    tap: bool = False


@dataclass(frozen=True, slots=True)
class InstrInfo:
    """What is known of an instruction besides its encoding. node: the ONNX node; macs: useful multiply-accumulates of a frame;
    rows: tokens streamed per tile (experts: the expected number)."""

    node: str
    macs: int
    rows: int


@dataclass(frozen=True, slots=True)
class BufferInfo:
    """A line of the memory map: words ``base`` .. ``base + words - 1`` from instruction ``first`` to ``last``."""

    name: str
    memory: str
    base: int
    words: int
    first: int
    last: int


@dataclass(frozen=True)
class Program:
    """Everything the hardware and its driver need to run one network.

    instrs, infos     instructions, the last one END, and what is known of each
    buffers           memory map of the activation memories
    image             weight image, bytes
    input_bytes, input_stride, output_bytes   of one frame
    outputs           per task
    token_block       hidden values are there for so many tokens at a time; 0: for all
    batch             images of a frame; the last frame of a run may be filled up with zeros
    """

    config: EngineConfig
    instrs: tuple[Instr, ...]
    infos: tuple[InstrInfo, ...]
    buffers: tuple[BufferInfo, ...]
    image: bytes
    input_bytes: int
    output_bytes: int
    outputs: tuple[tuple[OutputSlice, ...], ...]
    batch: int = 1
    token_block: int = 0

    def __repr__(self) -> str:
        return (f"<Program: {len(self.instrs)} instructions, {self.num_tasks} tasks, batch {self.batch}, {len(self.image):,} bytes of weights, "
                f"array {self.config.ti}x{self.config.to}>")

    @property
    def input_stride(self) -> int:
        return -(-self.input_bytes // PAGE) * PAGE

    @property
    def num_tasks(self) -> int:
        return len(self.outputs)

    def binary(self) -> bytes:
        """Program memory: 64 bytes an instruction, little endian."""
        return b"".join(word.to_bytes(4, "little") for instr in self.instrs for word in words(instr))

    def disassembly(self) -> str:
        """One numbered line per instruction."""
        return "".join(f"{pc:4} {instr}\n" for pc, instr in enumerate(self.instrs))

    def useful_macs(self, task: int = 0) -> int:
        """Multiply-accumulates of one image without any padding; experts as dispatched."""
        return sum(info.macs for instr, info in zip(self.instrs, self.infos, strict=True) if not instr.pred or instr.task == task) // self.batch

    def mean_macs(self, tasks: Sequence[int] | None = None) -> int:
        """`useful_macs` on the average of these tasks, else of all: useful_macs_per_image of every report."""
        tasks = range(self.num_tasks) if tasks is None else tasks
        return sum(self.useful_macs(task) for task in tasks) // len(tasks)

    def rows(self, dispatched: dict[int, int] | None = None) -> list[int]:
        """Tokens streamed per tile, per instruction; ``dispatched`` {pc: tokens} overrides the expected ones of experts."""
        return [(dispatched or {}).get(pc, info.rows) for pc, info in enumerate(self.infos)]

    def estimate(self, bytes_per_cycle: float, latency: int, task: int = 0,
                 dispatched: dict[int, int] | None = None, length: int = 0) -> tuple[cycles.Timing, ...]:
        """Cycle model of one frame, stage "estimate"; of a sequence of ``length`` tokens, if not 0."""
        rows = self.rows(dispatched)
        if not length:
            return cycles.estimate(self.config, self.instrs, tuple(rows), task, bytes_per_cycle, latency)
        short = self.shortened(length)
        rows = [-(-count * one.tokens // whole.tokens) if whole.gather or whole.scatter else min(count, one.tokens)
                for count, one, whole in zip(rows, short, self.instrs, strict=True)]
        return cycles.estimate(self.config, tuple(short), tuple(rows), task, bytes_per_cycle, latency)

    def shortened(self, length: int) -> list[Instr]:
        """The instructions for a sequence of ``length`` tokens; without tokens those that the engine passes over."""
        return [followed(instr, length, self.config.ti, self.config.to) or replace(instr, tokens=0) for instr in self.instrs]

    def frames(self, network: Network, images: np.ndarray) -> bytes:
        """Inputs of a run: frame f at ``f * input_stride``. The number of images is a multiple of ``batch``."""
        patches = quantize_input(network, images)
        if self.batch > 1:
            stream = next(instr for instr in self.instrs if instr.op == Op.STREAM)              # the host's words come first
            rows = np.zeros((len(patches), stream.tokens // self.batch, patches.shape[2]), patches.dtype)
            rows[:, rows.shape[1] - patches.shape[1]:] = patches
            patches = rows.reshape(-1, stream.tokens, patches.shape[2])
        vectors = image.frames(patches, shape_of(self.config))
        padded = np.zeros((len(vectors), self.input_stride), np.uint8)
        padded[:, :self.input_bytes] = vectors
        return padded.tobytes()

    def read_outputs(self, data: bytes, tasks: list[int]) -> list[dict[str, np.ndarray]]:
        """Output memory of a run -> per image {ONNX output: int32 [n]}, token by token, ``batch`` images a frame; tasks: of each frame."""
        return [{name: np.concatenate(rows) for name, rows in found.items()} for found in self._read(data, tasks, tap=False)]

    def read_values(self, data: bytes, tasks: list[int]) -> list[dict[str, np.ndarray]]:
        """The same run -> per frame {value of the network: int32 [T, C]}, for a program with ``taps``."""
        return [{name: np.stack(rows) for name, rows in found.items()} for found in self._read(data, tasks, tap=True)]

    def _read(self, data: bytes, tasks: list[int], tap: bool) -> list[dict[str, list[np.ndarray]]]:
        """Per image {name: the words of its tokens in order}, of taps or of outputs."""
        frames = np.frombuffer(data, ACCUMULATOR.stored).reshape(len(tasks), -1, self.config.to)
        result = []
        for frame, task in zip(frames, tasks, strict=True):
            found: list[dict[str, list[np.ndarray]]] = [{} for _ in range(self.batch)]
            for o in sorted(self.outputs[task], key=lambda o: o.token):
                if o.tap == tap:
                    found[o.image].setdefault(o.name, []).append(_values(frame, o, self.config.to))
            result.extend(found)
        return result


def _values(words: np.ndarray, o: OutputSlice, to: int) -> np.ndarray:
    return words[o.word:o.word + o.step * -(-o.channels // to):o.step].reshape(-1)[:o.channels]
