"""Quantized model + array size -> `Program`: passes over the steps of each task, merge, memory map, instructions, weight image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
import math
from weakref import WeakKeyDictionary

from ...engine import MAX_FUNCTIONS, OUT_WORDS, EngineConfig, covering, lane_group
from ...errors import CapacityError, combined
from ...isa import Dst, Instr, Op, Operand, Src, Stat
from ...layout import image
from ...layout.memory import first_fit, lifetimes
from ...layout.merge import Slot, merge
from ...registers import MAX_PROGRAM_WORDS
from ...steps.format import INT4
from ...steps.passes.ablation import Ablation, extra_steps
from ...steps.passes.attention import order_inputs, split_heads
from ...steps.passes.batch import batch as batched
from ...steps.passes.blocks import split_hidden
from ...steps.passes.choices import stream_biases
from ...steps.passes.experts import order_experts
from ...steps.passes.groups import split_groups
from ...steps.passes.lists import bring_lists
from ...steps.passes.norms import fuse_norms
from ...steps.passes.numbers import number
from ...steps.passes.outputs import split_outputs
from ...steps.passes.planes import split_planes
from ...steps.passes.products import split_products
from ...steps.passes.roles import copies
from ...steps.passes.rotations import check_lengths, tile_rotations
from ...steps.passes.starts import lengthen_starts
from ...steps.passes.taps import is_tap, taps as tapped
from ...steps.step import Network, Quantized, Step
from ...steps.tensor import Memory, Tensor
from ...steps.walk import tensors
from .encode import Encoder, planes_of
from .hazards import slacks
from .program import BufferInfo, InstrInfo, OutputSlice, Program, shape_of

_PASSED: WeakKeyDictionary[Quantized, dict[tuple[Hashable, ...], list[Network]]] = WeakKeyDictionary()
NOTHING = Ablation()      # to do without
MAX_TOKENS = 4096         # accumulator rows an instruction can address
OPERAND_WORDS = 1024      # words of an operand; products of two values are worked on in blocks of columns
SCORE_WORDS = 4096        # words of a score buffer; longer sequences are worked on in blocks of queries
STAGES: dict[str, Callable[[Instr], bool]] = {       # of `EngineConfig`: which instructions ask for it
    "wide": lambda instr: bool(instr.wide or instr.plane or instr.src == Src.RES), "causal": lambda instr: instr.limit > 0,
    "rotate": lambda instr: instr.operand == Operand.ROTATE, "bypass": lambda instr: instr.stat == Stat.BYPASS, "rms": lambda instr: instr.rms > 0,
    "scores": lambda instr: bool(instr.act and instr.dst == Dst.ROUTER),
    "mixes": lambda instr: instr.stat == Stat.V_ROWS and instr.src == Src.ACT, "picks": lambda instr: instr.pick > 0}
PLACED = (Memory.ACT, Memory.KV, Memory.SCORE, Memory.RES, Memory.OPERAND, Memory.LIST)
BY_COLUMNS = (Memory.OPERAND, Memory.LIST)      # words of To lanes, of engines whose networks ask for them


def schedule(model: Quantized, *, ti: int, to: int, axi_data_bits: int, fifo_beats: int = 512, packed: bool = False,
             batch: int = 1, load_columns: int = 1, score_words: int = SCORE_WORDS, ablation: Ablation = NOTHING,
             taps: bool = False, engine: EngineConfig | None = None,
             token_block: int = 0, sketch: bool = False) -> Program:
    """Schedule a network on an array of ti x to, ``batch`` images a frame; with ``taps`` all int8 values leave too. score_words: words of a score
    buffer, longer sequences are worked on in blocks of queries. engine: that exists already; the program is for it, and not for the smallest one.
    token_block: hidden values are there for so many tokens at a time (0: all), see `split_hidden`. sketch: without the weight image, which takes
    the longest to make. Raises CapacityError when the instruction set's limits, or those of ``engine``, are exceeded."""
    if not 1 <= batch <= OUT_WORDS:
        raise CapacityError(f"a batch of {batch} images; 1 to {OUT_WORDS} are possible", where="option --batch",
                            hint=f"choose 1 to {OUT_WORDS}")
    if batch > 1 and model.tasks[0].input[1].sequence:
        raise CapacityError("the sequences of a batch all have the compiled length: a run-time length is that of a frame", where="option --batch",
                            hint="compile without --batch, or without run-time lengths")
    EngineConfig(ti, to, 16, 1, 1, 1, 1, 1, 0, 1, axi_data_bits, fifo_beats)            # refuses an array that cannot be
    networks = _passed(model, ti, to, batch, score_words, ablation, taps, token_block)
    slots = merge([list(network.steps) for network in networks], identity)
    _check(slots, to)
    bases, rows, words, buffers = _memory_map(slots, ti, to)
    routers = [(slot.step.columns, slot.step.sink.tensor.channels) for slot in slots if slot.step.routes]
    config = EngineConfig(
        ti=ti, to=to, max_tokens=_max_tokens(slots, rows),
        **{f"{memory}_words": _round(words[memory]) for memory in PLACED if memory not in BY_COLUMNS},
        program_words=len(slots) + 1, max_experts=max((experts for experts, _ in routers), default=0),
        max_top_k=max((top_k for _, top_k in routers), default=0), axi_data_bits=axi_data_bits, fifo_beats=fifo_beats,
        activation=" ".join(_functions(slots)) or "gelu", packed=packed, load_columns=load_columns,
        w4=any(slot.step.weights is not None and slot.step.weights.format == INT4 for slot in slots),
        wide=False, causal=False, rotate=False, bypass=False, rms=False, lengths=False, scores=False, mixes=False, picks=False,
        **{f"{memory}_words": _round(words[memory]) if words[memory] else 0 for memory in BY_COLUMNS})
    if engine is not None:
        config = _with_stages(covering((engine, config)), set())
    encoder = Encoder(config, bases, rows)
    limits = [(0, 0)] * len(slots) if ablation.serial else slacks(slots, [encoder.starts_at(slot.step) for slot in slots], len(networks))
    instrs = [encoder.instruction(slot, pair) for slot, pair in zip(slots, limits, strict=True)] + [Instr(op=Op.END)]
    names = {name for name, asks in STAGES.items() if any(map(asks, instrs)) or engine is not None and getattr(engine, name)}
    lengths = model.tasks[0].input[1].sequence or engine is not None and engine.lengths
    config = replace(_with_stages(config, names), lengths=lengths)
    if engine not in (None, config):
        raise CapacityError("the network needs more than the engine given has", where=f"engine of {ti}x{to}", hint="an engine that covers both")
    infos = [InstrInfo(slot.step.node, slot.step.macs, slot.step.rows) for slot in slots]
    outputs, output_words = _outputs(slots, instrs, len(networks), batch)
    shape = shape_of(config)
    return Program(config, tuple(instrs), (*infos, InstrInfo("", 0, 0)), buffers, b"" if sketch else b"".join(_image(slots, shape)),
                   sum(instr.tokens * instr.n_tiles * image.word_bytes(slot.step.sink.tensor.format.dtype.itemsize, shape)
                       for slot, instr in zip(slots, instrs, strict=False) if slot.step.feed.from_host),
                   output_words * 4 * to, outputs, batch, token_block)


def _passed(model: Quantized, ti: int, to: int, batch: int, score_words: int, ablation: Ablation, taps: bool, token_block: int) -> list[Network]:
    """The network of each task as this array works on it. What decides is named here: several engines of one board have the same."""
    key = (ti, to, batch, score_words, ablation, taps, token_block)
    kept = _PASSED.setdefault(model, {})
    if key not in kept:
        kept[key] = [_passes(network, *key) for network in model.tasks]
    return kept[key]


def _passes(network: Network, ti: int, to: int, batch: int, score_words: int, ablation: Ablation, taps: bool, token_block: int) -> Network:
    """Every pass, in order."""
    group = lane_group(ti, to)
    network = order_inputs(network)
    if taps:
        network = tapped(network, OUT_WORDS)
    network = batched(network, batch)
    if token_block:
        network = split_hidden(network, token_block)
    network = split_groups(copies(fuse_norms(split_outputs(network, OUT_WORDS)), group), ti)
    network = order_experts(split_heads(network, score_words, ti, ablation.query_block), ablation.moe_block)
    network = tile_rotations(split_products(network, OPERAND_WORDS, to), to, math.gcd(ti, to))
    check_lengths(network, to)
    return stream_biases(number(lengthen_starts(split_planes(extra_steps(bring_lists(network, to), ablation, ti, to)))))


def _with_stages(config: EngineConfig, names: set[str]) -> EngineConfig:
    """With these of `STAGES` and no others."""
    return replace(config, wide="wide" in names, causal="causal" in names, rotate="rotate" in names, bypass="bypass" in names, rms="rms" in names,
                   scores="scores" in names, mixes="mixes" in names, picks="picks" in names, lengths=False)


def identity(step: Step) -> Hashable:
    """Equal for steps of two tasks that can be one instruction: tensors are numbered, params have names, the ONNX nodes do not count."""
    return (step.feed, step.tile, step.drain, step.source_view, step.sinks, step.keeps, step.heads, step.expert, step.half, step.plane, step.taken,
            tuple((t.name, t.format, t.tokens, t.channels, t.heads, t.sequence)
                  for t in tensors((step.source_view, step.tile, step.sinks, step.drain))))


def _memory_map(slots: list[Slot[Step]], ti: int, to: int) -> tuple[dict[Tensor, int], dict[Tensor, int], dict[Memory, int], tuple[BufferInfo, ...]]:
    """First word of every tensor, first row of the statistics of each residual stream, words used of each memory, and the lines of the map."""
    lives = lifetimes([tensor for tensor in tensors((slot.step.source_view, slot.step.taken, slot.step.sinks, slot.step.tile, slot.step.drain))
                       if tensor.memory in PLACED]
                      for slot in slots)

    def size(tensor: Tensor) -> int:
        lanes = to if tensor.memory in BY_COLUMNS else ti
        return -(-tensor.width // lanes) * tensor.tokens * planes_of(tensor)
    bases: dict[Tensor, int] = {}
    words = {}
    for memory in PLACED:
        placed, words[memory] = first_fit({tensor: life for tensor, life in lives.items() if tensor.memory is memory}, size)
        bases |= placed
    rows, _ = first_fit({tensor: life for tensor, life in lives.items() if tensor.memory is Memory.RES}, lambda tensor: tensor.tokens)
    return bases, rows, words, tuple(BufferInfo(t.name, t.memory.value, bases[t], size(t), *life) for t, life in lives.items())


def _round(count: int) -> int:
    """Memory depth: at least 16 words, a multiple of 16."""
    return max(16, -(-count // 16) * 16)


def _max_tokens(slots: list[Slot[Step]], rows: dict[Tensor, int]) -> int:
    """Accumulators, rows of statistics, scores that tokens are chosen by."""
    tokens = max([slot.step.tokens for slot in slots] + [first + tensor.tokens for tensor, first in rows.items()]
                 + [slot.step.tokens * slot.step.columns for slot in slots if slot.step.picks])
    return max(16, 1 << (tokens - 1).bit_length())


def _functions(slots: list[Slot[Step]]) -> list[str]:
    """The activation functions in the order of use, each once."""
    return list(dict.fromkeys(stage.table for slot in slots for stage in slot.step.drain if stage.table is not None))


def _check(slots: list[Slot[Step]], to: int) -> None:
    """Raises CapacityError with every limit that is exceeded."""
    wrong = [CapacityError(f"{slot.step.columns} experts, but a router row is one output tile of {to} lanes", where=f"node {slot.step.node!r}",
                           hint="choose a larger array with --array")
             for slot in slots if slot.step.routes and slot.step.columns > to]
    if any(slot.step.feed.from_host and slot.step.sink.tensor.memory is Memory.RES and slot.step.tokens == 1 for slot in slots):
        wrong.append(CapacityError("the input is one token that starts a residual stream: the engine needs two at least",
                                   hint="let a Linear follow the input"))
    if len(slots) >= MAX_PROGRAM_WORDS:
        wrong.append(CapacityError(f"the program has {len(slots) + 1} instructions, the program memory holds at most {MAX_PROGRAM_WORDS}",
                                   hint="a network with fewer layers, heads or experts, or a smaller --batch"))
    if (longest := max((slot.step for slot in slots), key=lambda step: step.tokens)).tokens > MAX_TOKENS:
        wrong.append(CapacityError(f"{longest.tokens} tokens, the engine's accumulators address {MAX_TOKENS}", where=f"node {longest.node!r}",
                                   hint="use a shorter sequence or a smaller image; the host can run the first layers of a stem: cut it there"))
    if len(used := _functions(slots)) > MAX_FUNCTIONS:
        wrong.append(CapacityError(f"the network uses {len(used)} activation functions, {', '.join(used)}; the engine has tables for {MAX_FUNCTIONS}",
                                   hint=f"use at most {MAX_FUNCTIONS} activation functions in the whole network"))
    if wrong:
        raise combined(wrong)


def _image(slots: list[Slot[Step]], shape: image.Shape) -> Iterator[bytes]:
    """The weight image, in the order of use."""
    for slot in slots:
        if slot.step.tile.by_columns:
            yield image.product(slot.step, shape)
        elif (table := slot.step.feed.constant) is not None:
            yield image.constant(table, shape)


def _outputs(slots: list[Slot[Step]], instrs: list[Instr], num_tasks: int, batch: int) -> tuple[tuple[tuple[OutputSlice, ...], ...], int]:
    """Outputs of each task, and the words a frame's output needs at most."""
    outputs, most = [], 0
    for task in range(num_tasks):
        word, found = 0, []
        for slot, instr in zip(slots, instrs, strict=False):
            step = slot.step
            if step.sink.tensor.memory is not Memory.OUT or slot.task not in (None, task):
                continue
            rows, first, channels = step.sink.tokens.count, step.sink.tokens.start, step.sink.channels.count
            for row in range(rows):
                image_index, token = divmod(first + row, step.sink.tensor.tokens // batch)
                found.append(OutputSlice(step.value, image_index, word + row, rows, channels, token, is_tap(step)))
            word += instr.n_tiles * rows
        outputs.append(tuple(found))
        most = max(most, word)
    return tuple(outputs), most
