"""Integer network -> the step table, memory map and weight image of the HLS engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
import struct

from ...checksum import crc32
from ...errors import CapacityError
from ...layout.image import Shape
from ...layout.memory import first_fit, lifetimes
from ...layout.merge import align, slots
from ...steps.step import Quantized
from ...steps.tensor import Memory
from ...steps.walk import tensors
from .attention import Attention, BiasedAttention
from .call import ALL_TASKS, Call
from .calls import calls
from .experts import Router, ScoreRouter
from .mixed import Mixed
from .pick import Picks, RowPicks
from .products import Head, LinearRotated, Product
from .scale import ScaledTurned
from .start import Patches, Tokens
from .value import Value, words

NO_ACTIVATION = ("gelu",)           # whose table a network without activation gets
MAX_SIZE = 65535                    # the step table holds sizes in 16 bits
MAGIC = b"HWGENHLS"
VERSION = 1
HEADER = struct.Struct("<8sIIQI36x")


@dataclass(frozen=True)
class Plan:
    """Everything the templates and the bench need. Sizes in words of ``lanes`` channels.

    functions: the activation functions, as `knots` knows them; outputs: per task (ONNX name, first word, words); image: words of
    ``lanes`` bytes, without header. lengths: tokens of the longest sequence, where a frame says how many it has.
    """

    lanes: int
    queries: int
    functions: tuple[str, ...]
    steps: tuple[Call, ...]
    values: tuple[Value, ...]
    outputs: tuple[tuple[tuple[str, int, int], ...], ...]
    image: bytes
    max_tokens: int
    head_words: int
    max_experts: int
    max_top_k: int
    act_words: int
    low_words: int
    residual_words: int
    logit_words: int
    input_words: int
    output_words: int
    operand_words: int = 1
    lengths: int = 0

    @property
    def causal(self) -> bool:
        """Whether there are layers in which a token sees no token behind itself."""
        return any(isinstance(step, Attention) and step.limit for step in self.steps)

    @property
    def rotates(self) -> bool:
        """Whether there are layers in which pairs of channels are turned."""
        return any(isinstance(step, (LinearRotated, ScaledTurned)) for step in self.steps)

    @property
    def mixes(self) -> bool:
        """Whether there are layers in which tokens are mixed."""
        return any(isinstance(step, Mixed) for step in self.steps)

    @property
    def biased(self) -> bool:
        """Whether there are layers in which a constant is added to the scores."""
        return any(isinstance(step, BiasedAttention) for step in self.steps)

    @property
    def list_size(self) -> int:
        """Numbers of tokens that a product takes by a list, at most; 1: none does."""
        return max([1, *(step.taps * step.streamed for step in self.steps if isinstance(step, Product))])

    @property
    def scores(self) -> bool:
        """Whether there are routers of scores."""
        return any(isinstance(step, ScoreRouter) for step in self.steps)

    @property
    def picks(self) -> bool:
        """Whether tokens are chosen by their scores."""
        return any(isinstance(step, (Picks, RowPicks)) for step in self.steps)

    @property
    def weight_words(self) -> int:
        return len(self.image) // self.lanes

    @property
    def digest(self) -> int:
        """CRC-32 of the image."""
        return crc32(self.image)

    def weight_file(self) -> bytes:
        """Header (magic, version, lanes, bytes, digest; 64 bytes) and image."""
        return HEADER.pack(MAGIC, VERSION, self.lanes, len(self.image), self.digest) + self.image


@dataclass(frozen=True)
class _Entry:
    """A step of the table to be: ``versions``, {task: its call}, compute the same, or there is one. row: see `align`."""

    row: int
    task: int
    versions: dict[int, Call]

    @property
    def call(self) -> Call:
        return next(iter(self.versions.values()))


def plan(model: Quantized, lanes: int = 32, queries: int = 8) -> Plan:
    """Raises ModelError for a step the engine has no function for, CapacityError when a size exceeds the step table."""
    if lanes % 8 or lanes < 8 or queries < 1:
        raise CapacityError(f"{lanes} lanes and {queries} resident queries are no HLS engine", hint="lanes is a multiple of 8")
    tasks = range(len(model.tasks))
    table = _merged([calls(network) for network in model.tasks])
    operands, values, used = _memory(table, lanes)
    streams, residual_words = _streams(table, lanes)
    weights, image = _image([entry.call for entry in table], lanes)
    places, outputs = _outputs(table, len(tasks))
    functions = _functions(table)
    steps = [replace(entry.call, task=entry.task, functions=functions, operands=found, weights=word, place=place, streams=streams,
                     names=tuple(entry.versions[task].value if task in entry.versions else "" for task in tasks))
             for entry, found, word, place in zip(table, operands, weights, places, strict=True)]
    starts = [(view.tensor.tokens, view.tensor.channels) for step in steps for part in step.steps for view in part.sinks
              if view.tensor.memory is Memory.RES]
    routers = [step for step in steps if isinstance(step, Router)]
    scored = [step for step in steps if isinstance(step, (Router, Picks))]
    tokens = max([step.src.tokens for step in steps if "src" in step.operands]
                 + [step.streamed for step in steps if isinstance(step, Product)] + [count for count, _ in starts])
    _check_sizes(model)
    return Plan(
        lanes, queries, functions, tuple(steps), values, outputs, image, max_tokens=tokens,
        head_words=max((most for step in steps if isinstance(step, Attention) for most in step.head_words(lanes)), default=1),
        max_experts=max((step.channels for step in routers), default=1), max_top_k=max((step.route.top_k for step in routers), default=1),
        act_words=used[Memory.ACT], low_words=used[Memory.ACT] if any(value.wide for value in values) else 1,
        residual_words=max(1, residual_words),
        logit_words=max((step.src.tokens * words(step.channels, lanes) for step in scored), default=1),
        input_words=next(step.input_words(lanes) for step in steps if isinstance(step, (Patches, Tokens))),
        output_words=max(map(_end, outputs)), operand_words=max(1, used[Memory.OPERAND]),
        lengths=sent.tokens if (sent := model.tasks[0].input[1]).sequence else 0)


def _merged(tasks: list[list[Call]]) -> list[_Entry]:
    """The step tables of all tasks in one."""
    table = []
    for index, row in enumerate(align(tasks, attrgetter("shape"))):
        for slot in slots(row, attrgetter("identity")):
            versions = {task: call for task, call in enumerate(row) if call is not None and slot.task in (None, task)}
            table.append(_Entry(index, ALL_TASKS if slot.task is None else slot.task, versions))
    return table


def _memory(table: list[_Entry], lanes: int) -> tuple[list[dict[str, Value]], tuple[Value, ...], dict[Memory, int]]:
    """(operands of each step with their addresses, all values, words needed of each memory). Values of tasks side by side share their place."""
    made = [(entry, role) for entry in table for role in entry.call.makes if role in entry.call.operands]
    values = {(entry.row, role): entry.call.operands[role] for entry, role in made}
    makers = {(task, call.operands[role].name): (entry.row, role) for entry, role in made for task, call in entry.versions.items()}
    uses = []
    for entry in table:
        task, call = next(iter(entry.versions.items()))
        uses.append({role: makers[task, value.name] for role, value in call.operands.items()})
    lives, bases, total = lifetimes(used.values() for used in uses), dict[tuple[int, str], int](), dict[Memory, int]()
    for memory in (Memory.ACT, Memory.OPERAND):
        found, total[memory] = first_fit({maker: life for maker, life in lives.items() if values[maker].memory is memory},
                                         lambda maker: values[maker].words(lanes))
        bases |= found
    placed: dict[tuple[int, str], Value] = {}
    names: set[str] = set()
    for maker in lives:
        name = values[maker].name
        while name in names:                # two tasks of different structure may use one name
            name += "'"
        names.add(name)
        placed[maker] = replace(values[maker], name=name, address=bases[maker])
    return [{role: placed[maker] for role, maker in used.items()} for used in uses], tuple(placed[maker] for maker in lives), total


def _streams(table: list[_Entry], lanes: int) -> tuple[dict[str, int], int]:
    """(first word of each residual stream by its name, words needed). Streams of equal name of tasks share their place."""
    sizes: dict[str, int] = {}
    uses = []
    for entry in table:
        found = [tensor for call in entry.versions.values() for step in call.steps for tensor in tensors((step.source_view, step.sinks))
                 if tensor.memory is Memory.RES]
        for tensor in found:
            sizes[tensor.name] = max(sizes.get(tensor.name, 0), tensor.tokens * words(tensor.channels, lanes))
        uses.append([tensor.name for tensor in found])
    return first_fit(lifetimes(uses), sizes.__getitem__)


def _image(steps: list[Call], lanes: int) -> tuple[list[int], bytes]:
    """(first word of each step's weights, image): in the order of use. What is used again is not stored again, where its words are the same:
    biases are others where 16 bits stream."""
    found: dict[tuple[tuple[str, ...], bytes], int] = {((), b""): 0}
    places, parts, size = [], [], 0
    for step in steps:
        data = step.data(Shape(lanes, lanes, lanes))
        if (step.params, data) not in found:
            found[step.params, data] = size // lanes
            parts.append(data)
            size += len(data)
        places.append(found[step.params, data])
    return places, b"".join(parts)


def _outputs(table: list[_Entry], tasks: int) -> tuple[list[int], tuple[tuple[tuple[str, int, int], ...], ...]]:
    """(place of each step's result in the output, `Plan.outputs`)."""
    outputs: list[list[tuple[str, int, int]]] = [[] for _ in range(tasks)]
    places = []
    for entry in table:
        heads = {task: call for task, call in entry.versions.items() if isinstance(call, Head)}
        place = max((_end(outputs[task]) for task in heads), default=0)         # one step has one place, whatever comes before it in a task
        for task, call in heads.items():
            outputs[task].append((call.output, place, call.length))
        places.append(place)
    return places, tuple(map(tuple, outputs))


def _end(outputs: Sequence[tuple[str, int, int]]) -> int:
    """First word behind these outputs."""
    return max((place + length for _, place, length in outputs), default=0)


def _functions(table: list[_Entry]) -> tuple[str, ...]:
    """The activation functions of the network, each once, in the order of use."""
    return tuple(dict.fromkeys(entry.call.activation for entry in table if entry.call.activation)) or NO_ACTIVATION


def _check_sizes(model: Quantized) -> None:
    """Raises CapacityError."""
    largest = max(size for network in model.tasks for tensor in network.tensors() if tensor.memory is not Memory.SCORE
                  for size in (tensor.tokens, tensor.channels))
    if largest > MAX_SIZE:
        raise CapacityError(f"a dimension of {largest}, the step table holds at most {MAX_SIZE}", hint="a shorter sequence or a narrower layer")
