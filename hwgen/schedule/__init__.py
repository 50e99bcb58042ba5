"""Scheduler: integer network + array size -> `Program`: engine configuration, instructions, memory map, weight image.

    steps.py    what an instruction is before addresses        lower.py   integer graph -> steps
    order.py    tasks merged, hazards                          memory.py  memory map
    image.py    weight image and frame input                   cycles.py  cycle model
    ablation.py programs without one of the techniques
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..engine import EngineConfig, OUT_WORDS
from ..errors import CapacityError
from ..golden.integer_model import quantize_input
from ..functions import Act
from ..program import Dst, Instr, Op, Src, words
from ..qir import QGraph, QLinear, QModel, QMoE, QPatches
from ..registers import MAX_PROGRAM_WORDS
from . import cycles, image, memory, order
from .ablation import Ablation, extra_passes
from .lower import SCORE_WORDS, Lowering
from .memory import MemoryMap
from .order import Slot
from .steps import ACT, KV, RES, SCORE

__all__ = ["ACT", "KV", "RES", "SCORE", "Ablation", "BufferInfo", "InstrInfo", "OutputSlice", "Program", "schedule"]

PAGE = 4096
MAX_TOKENS = 4096         # accumulator rows an instruction can address


@dataclass(frozen=True, slots=True)
class OutputSlice:
    """Where an output of one image lies in a frame's output of one task: words (of ``to`` int32) ``word``, ``word + step``, ... hold
    ``channels`` values."""

    name: str
    image: int
    word: int
    step: int
    channels: int
    token: int = -1          # of a value that leaves for comparison (``taps``); -1: an output of the network


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
        return sum(info.macs for instr, info in zip(self.instrs, self.infos) if not instr.pred or instr.task == task) // self.batch

    def mean_macs(self, tasks: Sequence[int] | None = None) -> int:
        """`useful_macs` on the average of these tasks, else of all: useful_macs_per_image of every report."""
        tasks = range(self.num_tasks) if tasks is None else tasks
        return sum(self.useful_macs(task) for task in tasks) // len(tasks)

    def rows(self, dispatched: dict[int, int] | None = None) -> list[int]:
        """Tokens streamed per tile, per instruction; ``dispatched`` {pc: tokens} overrides the expected ones of experts."""
        return [(dispatched or {}).get(pc, info.rows) for pc, info in enumerate(self.infos)]

    def estimate(self, bytes_per_cycle: float, latency: int, task: int = 0,
                 dispatched: dict[int, int] | None = None) -> list[cycles.Timing]:
        """Cycle model of one frame, stage "estimate"."""
        return cycles.estimate(self.config, list(self.instrs), self.rows(dispatched), task, bytes_per_cycle, latency)

    def frames(self, graph: QGraph, images: np.ndarray) -> bytes:
        """Inputs of a run: frame f at ``f * input_stride``. The number of images is a multiple of ``batch``."""
        node = next(node for node in graph.nodes if isinstance(node, QPatches))
        patches = quantize_input(node, images)
        if self.batch > 1:
            stream = next(instr for instr in self.instrs if instr.op == Op.STREAM and instr.src == Src.ACT)
            rows = np.zeros((len(patches), stream.tokens // self.batch, patches.shape[2]), np.int8)
            rows[:, rows.shape[1] - patches.shape[1]:] = patches
            patches = rows.reshape(-1, stream.tokens, patches.shape[2])
        vectors = image.input_vectors(patches, self.config.vector_bytes, self.config.to)
        padded = np.zeros((len(vectors), self.input_stride), np.uint8)
        padded[:, :self.input_bytes] = vectors
        return padded.tobytes()

    def read_outputs(self, data: bytes, tasks: list[int]) -> list[dict[str, np.ndarray]]:
        """Output memory of a run -> per image {ONNX output: int32 [channels]}, ``batch`` images a frame; tasks: of each frame."""
        to = self.config.to
        frames = np.frombuffer(data, "<i4").reshape(len(tasks), -1, to)
        result = []
        for words, task in zip(frames, tasks):
            found: list[dict[str, np.ndarray]] = [{} for _ in range(self.batch)]
            for o in self.outputs[task]:
                if o.token < 0:
                    found[o.image][o.name] = _values(words, o, to)
            result.extend(found)
        return result

    def read_values(self, data: bytes, tasks: list[int]) -> list[dict[str, np.ndarray]]:
        """The same run -> per frame {value of the integer graph: int32 [T, C]}, for a program with ``taps``."""
        frames = np.frombuffer(data, "<i4").reshape(len(tasks), -1, self.config.to)
        result = []
        for words, task in zip(frames, tasks):
            found: dict[str, list[np.ndarray]] = {}
            for o in self.outputs[task]:
                if o.token >= 0:                    # in the order of tokens
                    found.setdefault(o.name, []).append(_values(words, o, self.config.to))
            result.append({name: np.stack(rows) for name, rows in found.items()})
        return result


def _values(words: np.ndarray, o: OutputSlice, to: int) -> np.ndarray:
    return words[o.word:o.word + o.step * -(-o.channels // to):o.step].reshape(-1)[:o.channels]


def schedule(model: QModel, *, ti: int, to: int, axi_data_bits: int, fifo_beats: int = 512, packed: bool = False,
             batch: int = 1, load_columns: int = 1, score_words: int = SCORE_WORDS, ablation: Ablation = Ablation(),
             taps: bool = False) -> Program:
    """Schedule a network on an array of ti x to, ``batch`` images a frame; with ``taps`` all int8 values leave too. Raises
    CapacityError when the instruction set's limits are exceeded. See `EngineConfig` and `lower.Lowering` for the other parameters."""
    graphs = model.tasks
    if not 1 <= batch <= OUT_WORDS:
        raise CapacityError(f"a batch of {batch} images; 1 to {OUT_WORDS} are possible", where="option --batch",
                            hint=f"choose 1 to {OUT_WORDS}")
    group = EngineConfig(ti, to, 16, 1, 1, 1, 1, 1, 0, 1, axi_data_bits, fifo_beats).group
    slots = order.merge([extra_passes(Lowering(graph, ti, to, group, batch, score_words, ablation, taps).run(), ablation, ti, to)
                         for graph in graphs])
    placed = memory.allocate(slots, ti)
    config = EngineConfig(
        ti=ti, to=to, max_tokens=_max_tokens(slots), act_words=_round(placed.words[ACT]), kv_words=_round(placed.words[KV]),
        score_words=_round(placed.words[SCORE]), res_words=_round(placed.words[RES]), program_words=len(slots) + 1,
        max_experts=max((slot.step.instr.num_experts for slot in slots), default=0),
        max_top_k=max((slot.step.instr.top_k for slot in slots), default=0), axi_data_bits=axi_data_bits, fifo_beats=fifo_beats,
        activation=_activation(graphs), packed=packed, load_columns=load_columns,
        w4=any(slot.step.instr.w4 for slot in slots))
    if config.program_words > MAX_PROGRAM_WORDS:
        raise CapacityError(f"the program has {config.program_words} instructions, the program memory holds at most {MAX_PROGRAM_WORDS}",
                            hint="a network with fewer layers, heads or experts, or a smaller --batch")
    limits = [(0, 0)] * len(slots) if ablation.serial else order.slacks(slots, len(graphs))
    instrs = [_place(slot, pair, placed, config) for slot, pair in zip(slots, limits)] + [Instr(op=Op.END)]
    outputs, output_words = _outputs(slots, len(graphs))
    infos = [InstrInfo(slot.step.node, slot.step.macs, slot.step.rows or slot.step.instr.tokens) for slot in slots]
    buffers = [BufferInfo(b.name, b.memory, placed.bases[b], memory.size(b, ti), *life) for b, life in placed.lives.items()]
    return Program(config, tuple(instrs), (*infos, InstrInfo("", 0, 0)), tuple(buffers), _image(slots, config),
                   _input_bytes(slots, config), output_words * 4 * to, outputs, batch)


def _round(count: int) -> int:
    """Memory depth: at least 16 words, a multiple of 16."""
    return max(16, -(-count // 16) * 16)


def _max_tokens(slots: list[Slot]) -> int:
    tokens = max(slot.step.instr.tokens for slot in slots)
    if tokens > MAX_TOKENS:
        raise CapacityError(f"{tokens} tokens, the engine's accumulators address {MAX_TOKENS}", hint="use a shorter sequence")
    return max(16, 1 << (tokens - 1).bit_length())


def _activation(graphs: tuple[QGraph, ...]) -> str:
    kinds = {node.act.kind for graph in graphs for node in graph.nodes
             if isinstance(node, (QLinear, QMoE)) and node.act is not None}
    if len(kinds) > 1:
        raise CapacityError(f"the network uses the activations {sorted(k.value for k in kinds)}, the engine has one table",
                            hint="use one activation function in the whole network")
    return (kinds.pop() if kinds else Act.GELU).value


def _place(slot: Slot, limits: tuple[int, int], placed: MemoryMap, config: EngineConfig) -> Instr:
    step = slot.step
    fields: dict[str, int] = dict(slack=limits[0], load_slack=limits[1])

    def base(place):
        return placed.bases[place.buffer] + place.position // config.ti * place.buffer.tokens + place.token

    if step.source is not None:
        fields.update(src_base=base(step.source), src_stride=step.source.buffer.tokens)
        if step.instr.src == Src.EXP:
            fields.update(src_row=step.source.buffer.parity * config.max_tokens)
    if step.target is not None:
        fields.update(dst_base=base(step.target), dst_stride=step.target.buffer.tokens,
                      dst_group=step.target.position % config.ti // config.group)
        if step.instr.dst == Dst.SCORE:
            fields.update(dst_row=step.target.buffer.parity * config.max_tokens)
    if step.stationary is not None:
        fields.update(stat_base=base(step.stationary), stat_stride=step.stationary.buffer.tokens,
                      stat_group=step.stationary.position % config.ti // config.group)
    return order.predicated(slot, replace(step.instr, **fields))


def _image(slots: list[Slot], config: EngineConfig) -> bytes:
    parts: list[bytes] = []
    for slot in slots:
        step = slot.step
        if step.operand is not None:
            channels = (step.instr.n_tiles - 1) * config.to + step.instr.n_last
            parts.append(image.matmul_vectors(step.operand, channels, config.ti, config.to, config.vector_bytes))
        elif step.constant is not None:
            parts.append(image.constant_vectors(step.constant, config.vector_bytes, config.to))
    return b"".join(parts)


def _input_bytes(slots: list[Slot], config: EngineConfig) -> int:
    return sum(s.step.instr.tokens * s.step.instr.n_tiles * config.vector_bytes for s in slots
               if s.step.instr.op == Op.STREAM and s.step.constant is None)


def _outputs(slots: list[Slot], num_tasks: int) -> tuple[tuple[tuple[OutputSlice, ...], ...], int]:
    """Outputs of each task, and the words a frame's output needs at most."""
    outputs, most = [], 0
    for task in range(num_tasks):
        word, found, images = 0, [], {}
        for slot in slots:
            if slot.step.tap is not None and slot.task in (None, task):
                instr, (name, first, channels) = slot.step.instr, slot.step.tap
                found += [OutputSlice(name, 0, word + row, instr.tokens, channels, first + row) for row in range(instr.tokens)]
                word += instr.n_tiles * instr.tokens
            elif slot.step.output is not None and slot.task in (None, task):
                instr, (name, channels) = slot.step.instr, slot.step.output
                rows = 1 if instr.mean else instr.tokens
                for row in range(rows):
                    found.append(OutputSlice(name, images.setdefault(name, 0), word + row, rows, channels))
                    images[name] += 1
                word += instr.n_tiles * rows
        outputs.append(tuple(found))
        most = max(most, word)
    return tuple(outputs), most
