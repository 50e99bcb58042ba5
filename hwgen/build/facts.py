"""Facts of a manifest -> records. A manifest may hold anything: every value is checked for type and range before it is used,
and what must agree (program and its files, outputs and network, input and patches) is compared. ValueError says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
import math

from ..checksum import crc32
from ..engine import LATER, OUT_WORDS, EngineConfig
from ..engines.hls.plan import MAX_SIZE
from ..engines.rtl.plan import MAX_TOKENS
from ..engines.rtl.program import BufferInfo, InstrInfo, OutputSlice, Program
from ..engines.rtl.verify import verify as verify_program
from ..errors import HwgenError
from ..isa import WORD_BITS, Instr, Op, Src
from ..knots import knots
from ..padding import Padding
from ..registers import MAX_PROGRAM_WORDS
from ..steps.stages import Host
from ..steps.step import Network, Quantized
from ..steps.tensor import Tensor
from ..steps.verify import verify

MAX_NAME = 1 << 16
MAX_COUNT = (1 << 31) - 1            # sizes in bytes, words, operations a tensor needs
MAX_MACS = 1 << 62
MAX_WORDS = 1 << 28                  # of one tensor of one image
MAX_MEMORY_WORDS = 1 << 20           # what an instruction can address
MAX_TASKS = 16                       # 4 bits of the TASKS register
ENGINE_LIMITS = {"max_tokens": MAX_TOKENS, "program_words": MAX_PROGRAM_WORDS, "axi_data_bits": 1024, "ti": 64, "to": 64,
                 "operand_words": 1 << 16, "list_words": 1 << 16}
INSTRUCTION_BYTES = WORD_BITS // 8
MASKS = ("bool", "int32", "int64", "float32")


def number(value, name: str, low: int, high: int) -> int:
    """An integer in low..high."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is not an integer in {low}..{high}")
    return value


def positive(value, name: str) -> float:
    """A number above 0, finite."""
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is not a positive number")
    return float(value)


def text(value, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"{name} is not a text")
    return value


def items(value, name: str, low: int, high: int) -> list:
    """A list of low..high entries."""
    if not isinstance(value, list) or not low <= len(value) <= high:
        raise ValueError(f"{name} is not a list of {low} to {high} entries")
    return value


def record(cls, value, name: str, limits: dict[str, tuple[int, int]]):
    """A dataclass of integers, texts and booleans; limits: of its integers, 0..2**31-1 otherwise."""
    wanted = {field.name: field.type for field in fields(cls)}
    if not isinstance(value, dict) or value.keys() != wanted.keys():
        raise ValueError(f"{name} is not a record of {', '.join(wanted)}")
    for key, kind in wanted.items():
        match kind:
            case "int":
                number(value[key], f"{name}.{key}", *limits.get(key, (0, MAX_COUNT)))
            case "str":
                text(value[key], f"{name}.{key}")
            case "bool":
                if type(value[key]) is not bool:
                    raise ValueError(f"{name}.{key} is not true or false")
            case _:
                raise TypeError(f"{cls.__name__}.{key}: {kind} is not checked here")
    return cls(**value)


def section(value, name: str, keys: Iterable[str]) -> dict:
    """A dict that has at least ``keys``."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is missing or no record")
    for key in keys:
        if key not in value:
            raise ValueError(f"{name}.{key} is missing")
    return value


def engine(value) -> EngineConfig:
    limits = {field.name: (0 if field.default is not MISSING or field.name.startswith("max_e") or field.name == "max_top_k" else 1,
                           ENGINE_LIMITS.get(field.name, MAX_MEMORY_WORDS))
              for field in fields(EngineConfig)}
    if isinstance(value, dict):
        later = {field.name: field.default for field in fields(EngineConfig) if field.name in LATER}
        value = later | value                           # `EngineConfig.to_dict` leaves them out
    try:
        config = record(EngineConfig, value, "engine", limits)
    except HwgenError as error:
        raise ValueError(error.message) from error
    if config.axi_data_bits & config.axi_data_bits - 1:
        raise ValueError(f"engine.axi_data_bits = {config.axi_data_bits} is no power of two")
    try:
        for name in config.functions:
            knots(name)
    except ValueError as error:
        raise ValueError("engine.activation is unknown") from error
    return config


def program(manifest: dict, binary: bytes, image: bytes) -> Program:
    """The program of a manifest; binary, image: content of program.bin and weights.bin."""
    config = engine(manifest.get("engine"))
    facts = section(manifest.get("program"), "program", ("batch", "input_bytes", "output_bytes", "outputs", "infos", "notes", "buffers",
                                                         "program_crc32", "weight_crc32"))
    for key, data in (("program_crc32", binary), ("weight_crc32", image)):
        if number(facts[key], f"program.{key}", 0, (1 << 32) - 1) != crc32(data):
            raise ValueError(f"program.{key} is not that of the file")
    notes = items(facts["notes"], "program.notes", 1, config.program_words)
    if len(binary) != INSTRUCTION_BYTES * len(notes):
        raise ValueError(f"program.bin has {len(binary)} bytes, its {len(notes)} instructions need {INSTRUCTION_BYTES * len(notes)}")
    if len(image) > MAX_COUNT or len(image) % config.vector_bytes:
        raise ValueError(f"weights.bin has {len(image)} bytes, not a multiple of {config.vector_bytes}")
    instrs = tuple(Instr.decode(int.from_bytes(binary[at:at + INSTRUCTION_BYTES], "little"), text(note, "program.notes"))
                   for at, note in zip(range(0, len(binary), INSTRUCTION_BYTES), notes, strict=True))
    if any(instr.op > Op.MATMUL or (instr.op == Op.END) != (pc == len(instrs) - 1) for pc, instr in enumerate(instrs)):
        raise ValueError("program.bin holds something else than instructions with one END behind them")
    words = {"base": (0, MAX_MEMORY_WORDS), "words": (0, MAX_MEMORY_WORDS)}
    limits = {"image": (0, OUT_WORDS - 1), "step": (1, MAX_COUNT), "channels": (1, MAX_COUNT)}
    return Program(
        config, instrs,
        tuple(record(InstrInfo, row, "program.infos", {"macs": (0, MAX_MACS)})
              for row in items(facts["infos"], "program.infos", len(instrs), len(instrs))),
        tuple(record(BufferInfo, row, "program.buffers", words) for row in items(facts["buffers"], "program.buffers", 0, MAX_COUNT)),
        image, number(facts["input_bytes"], "program.input_bytes", 1, MAX_COUNT),
        number(facts["output_bytes"], "program.output_bytes", 1, MAX_COUNT),
        tuple(tuple(record(OutputSlice, row, "program.outputs", limits) for row in items(task, "program.outputs", 1, MAX_COUNT))
              for task in items(facts["outputs"], "program.outputs", 1, MAX_TASKS)),
        number(facts["batch"], "program.batch", 1, OUT_WORDS))


def inputs(value) -> dict[str, tuple[int, ...]]:
    """The one input of a network: name -> shape without the batch dimension."""
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("inputs is not a record of one input")
    (name, shape), = value.items()
    found = tuple(number(size, f"inputs.{name[:60]}", 1, 1 << 20) for size in items(shape, "inputs", 2, 3))
    if math.prod(found) > 1 << 28:
        raise ValueError(f"inputs: {math.prod(found):,} values an image")
    return {text(name, "inputs"): found}


def padding(value, model: Quantized) -> Padding:
    """The input that says which tokens are there, of a network for sequences of several lengths."""
    found: Padding = record(Padding, value, "padding", {"shown": (0, 1)})
    sent = model.tasks[0].input[1]
    if found.dtype not in MASKS or not sent.sequence or found.tokens != sent.tokens:
        raise ValueError("padding is no mask of the tokens of the network")
    return found


def agree(model: Quantized, run: Program | None, shapes: dict[str, tuple[int, ...]]) -> None:
    """The network is one the hardware can compute, and program, if there is one, and input are of this network."""
    (shape,) = shapes.values()
    if not 1 <= len(model.tasks) <= MAX_TASKS:
        raise ValueError(f"the network has {len(model.tasks)} tasks")
    for network in model.tasks:
        _check_network(network, MAX_SIZE if run is None else MAX_TOKENS)
        _check_input(*network.input, shape)
    if run is not None:
        _agree_program(model, run)


def _agree_program(model: Quantized, run: Program) -> None:
    if len(model.tasks) != run.num_tasks:
        raise ValueError(f"the network has {len(model.tasks)} tasks, the program {run.num_tasks}")
    words = run.output_bytes // (4 * run.config.to)
    if run.output_bytes % (4 * run.config.to):
        raise ValueError(f"program.output_bytes = {run.output_bytes} is no number of words")
    for network, outputs in zip(model.tasks, run.outputs, strict=True):
        heads = {output.name: output for output in network.outputs}
        wanted = [(name, i, t, False) for name, head in heads.items() for i in range(run.batch) for t in range(head.tensor.tokens)]
        if sorted((o.name, o.image, o.token, o.tap) for o in outputs) != sorted(wanted):
            raise ValueError("program.outputs are not those of the network")
        for o in outputs:
            if o.channels != heads[o.name].tensor.channels:
                raise ValueError("program.outputs have other sizes than the network's")
            if o.word + o.step * (-(-o.channels // run.config.to) - 1) >= words:
                raise ValueError("program.outputs lie behind the end of the output")
    _, source = model.tasks[0].input
    wide = source.format.bits == 16                     # the start of the residual stream: the host's words come first
    stream = run.instrs[0]
    vector = -(-2 * run.config.to // run.config.vector_bytes) * run.config.vector_bytes if wide else run.config.vector_bytes
    tokens, channels = source.tokens, source.channels
    vectors = tokens * run.batch * -(-channels // run.config.to)
    if stream.op != Op.STREAM or stream.src != (Src.NORM if wide else Src.ACT) or stream.tokens < tokens * run.batch or stream.tokens % run.batch:
        raise ValueError("the program does not stream the network's input")
    if run.input_bytes != stream.tokens * stream.n_tiles * vector or vectors > run.input_bytes:
        raise ValueError(f"program.input_bytes = {run.input_bytes} is not what the program reads")
    _check_program(run)


def _check_program(run: Program) -> None:
    """`engines.rtl.verify`, of a program that may hold anything."""
    try:
        verify_program(run)
    except HwgenError as error:
        raise ValueError(f"program.bin: {error.message}: {error.where}") from error


def _check_network(network: Network, most: int) -> None:
    """`verify`, of a network that may hold anything. most: tokens that an engine of the build can have."""
    for tensor in network.tensors():
        if not 1 <= tensor.tokens <= most or not 1 <= tensor.channels <= MAX_COUNT or tensor.tokens * tensor.channels > MAX_WORDS:
            raise ValueError(f"model.npz has a tensor of {tensor.tokens} tokens and {tensor.channels} channels, at most {most} tokens and "
                             f"{MAX_WORDS} words can be")
    try:
        verify(network)
    except HwgenError as error:
        raise ValueError(f"model.npz: {error.message}") from error
    except (TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError) as error:
        raise ValueError(f"model.npz is no network: {type(error).__name__}") from error


def _check_input(host: Host, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """The windows of an image of ``shape`` are what the network takes."""
    found: tuple[int, ...] = ()
    if host.window is None:
        found = shape
    elif host.window.wrong() is None and len(shape) in (2, 3):
        rows, columns = host.window.places(1 if len(shape) == 2 else shape[1], shape[-1])
        found = (rows * columns, shape[0] * host.window.words)
    if found != (tensor.tokens - host.front, tensor.channels):
        raise ValueError("inputs do not have the shape that the network takes")


def report(value, hls: bool) -> dict:
    """report.json: free for people, but what is computed from it has the right type."""
    if not isinstance(value, dict):
        raise ValueError("report.json is no record")
    if "hls" in value:
        section(value["hls"], "report.json: hls", ("lanes", "queries"))
        number(value["hls"]["lanes"], "report.json: hls.lanes", 8, 256)
        number(value["hls"]["queries"], "report.json: hls.queries", 1, 4096)
    if ("hls" in value) != hls:
        raise ValueError("report.json and the list of files do not agree whether there is an HLS project")
    for key, names in (("limits", ("array_limit_cycles", "memory_limit_cycles")), ("resources", ("used", "available"))):
        if key in value:
            section(value[key], f"report.json: {key}", names)
    for name in ("array_limit_cycles", "memory_limit_cycles") if "limits" in value else ():
        positive(value["limits"][name], f"report.json: limits.{name}")
    for name in ("used", "available") if "resources" in value else ():
        for kind, count in section(value["resources"][name], f"report.json: resources.{name}", ()).items():
            if type(count) not in (int, float) or not 0 <= count < math.inf:
                raise ValueError(f"report.json: resources.{name}.{kind[:20]} is no number")
    return value
