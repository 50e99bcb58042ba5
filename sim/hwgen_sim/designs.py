"""The designs of the component benches: name -> configuration, Verilog files, bench."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hwgen.engine import READ_BURSTS, EngineConfig
from hwgen.engines.rtl.verilog import to_verilog
from hwgen.functions import FAMILIES, FUNCTIONS
from hwgen_rtl import harness
from hwgen_rtl.axi import OutputWriter, StreamDma
from hwgen_rtl.coefficients import NormCoefficients, SoftmaxFactor
from hwgen_rtl.engine import Engine
from hwgen_rtl.feeder import Feeder
from hwgen_rtl.fetch import Fetch
from hwgen_rtl.loader import Loader
from hwgen_rtl.picker import Picker
from hwgen_rtl.registers import AxiLiteRegisters
from hwgen_rtl.router import Router

from .runner import Design

SV = Path(harness.__file__).resolve().parent.parent / "sv"

SQUARE = EngineConfig(ti=8, to=8, max_tokens=16, act_words=32, kv_words=32, score_words=32, res_words=32, program_words=16, max_experts=4,
                      max_top_k=2, axi_data_bits=64, fifo_beats=32)
NARROW = replace(SQUARE, ti=16, to=8)                           # Ti != To, one segment
TALL = replace(SQUARE, ti=32, to=16)                            # two segments
WIDE = replace(NARROW, load_columns=2, w4=True)                 # two columns a cycle, 4-bit weights
THREE_QUARTERS = replace(SQUARE, ti=64, to=48)                  # windows of three groups of four
OPERANDS = replace(NARROW, operand_words=32)                    # words of another value go along
LISTS = replace(NARROW, list_words=64, wide=True, bypass=True)  # tokens by a list, of 16 bits and past the array too
ATTENTION = replace(NARROW, max_tokens=32, act_words=128, kv_words=128, score_words=128, max_experts=0, max_top_k=0)


@dataclass(frozen=True)
class BenchDesign:
    """One component with one set of parameters. ``make`` gives the Amaranth top; ``own`` goes to the bench."""

    name: str
    module: str                          # in sim/tb
    make: Callable
    sv: tuple[str, ...] = ()             # modules of rtl/sv it instantiates
    config: EngineConfig | None = None
    own: dict = field(default_factory=dict)

    def design(self) -> Design:
        component = self.make()
        inputs = tuple(name for name, member in component.signature.members.items() if member.is_port and member.flow.name == "In")
        files = {f"{name}.sv": (SV / f"{name}.sv").read_text() for name in self.sv}
        return Design(self.name, {**files, f"{self.name}_top.sv": to_verilog(component, self.name)}, inputs)

    @property
    def parameters(self) -> dict:
        return {**({"config": self.config.to_dict()} if self.config else {}), **self.own}


def _array(name, config, make, label):
    return BenchDesign(f"{name}_{label}", f"tb.{name}", lambda: make(config), (name,), config)


def _drain(config, quarter, label):
    """With a quarter of all activation functions."""
    every = [*FUNCTIONS, *(f"{name}(0.25)" for name in FAMILIES)]
    return _array("drain_lanes", replace(config, activation=" ".join(every[quarter::4])), harness.drain_lanes, label)


def _pe(config, label):
    config = replace(config, packed=label.startswith("packed"), fabric_columns=4 if label.startswith("packed_fabric") else 0)
    return BenchDesign(f"pe_array_{label}", "tb.pe_array", lambda: harness.pe_array(config),
                       ("pe_array_packed",) if config.packed else ("pe_array",), config)


def _memory(config, bits, depth, window, label, rotate=True):
    return BenchDesign(f"lane_memory_{label}", "tb.lane_memory", lambda: harness.lane_memory(config, bits, depth, window, rotate),
                       ("lane_memory", "lane_window"), config, {"bits": bits, "depth": depth, "window": window, "rotate": rotate})


def _fetch(skip, label, lengths=None):
    return BenchDesign(f"fetch_{label}", "tb.fetch", lambda: Fetch(16, skip, lengths), (), None, {"depth": 16, "skip": skip, "lengths": lengths})


def _registers(lengths, name):
    ports = ("aw", "w", "b", "ar", "r")
    return BenchDesign(
        name, "tb.registers", lambda: harness.AxiTop(AxiLiteRegisters(16, 0x1234ABCD, lengths), ports, "s_axil_", False), (), None,
        {"program_words": 16, "config_id": 0x1234ABCD, "lengths": lengths})


def _feeder(config, label):
    return BenchDesign(f"feeder_{label}", "tb.feeder", lambda: Feeder(config), (), config)


def _attention(config, name):
    return BenchDesign(name, "tb.attention", lambda: Engine(config),
                       ("accumulator", "delay", "drain_lanes", "feed_lanes", "lane_memory", "lane_window", "pe_array"), config)


def _picker(lanes, to, tokens, label):
    return BenchDesign(f"picker_{label}", "tb.picker", lambda: Picker(lanes, to, tokens), (), None, {"lanes": lanes, "to": to, "max_tokens": tokens})


def _router(experts, top_k, tokens, label, scores=False):
    return BenchDesign(f"router_{label}", "tb.router", lambda: Router(experts, top_k, tokens, scores),
                       ("delay", "router_chain", "router_scores") if scores else ("router_chain",), None,
                       {"max_experts": experts, "max_top_k": top_k, "max_tokens": tokens, "scores": scores})


def _fifo(bits, depth, label):
    return BenchDesign(f"stream_fifo_{label}", "tb.stream_fifo", lambda: harness.stream_fifo(bits, depth), ("stream_fifo",), None,
                       {"bits": bits, "depth": depth})


def _dma(axi_bits, vector_bytes, fifo_beats, label, read_bursts=READ_BURSTS):
    return BenchDesign(f"dma_{label}", "tb.stream_dma",
                       lambda: harness.AxiTop(StreamDma(axi_bits, vector_bytes, fifo_beats, read_bursts), ("ar", "r"), "m_axi_", True),
                       ("stream_fifo",), None,
                       {"axi_bits": axi_bits, "vector_bytes": vector_bytes, "fifo_beats": fifo_beats, "read_bursts": read_bursts})


def dma_rate(axi_bits: int, vector_bytes: int, fifo_beats: int, latency: int, bytes_per_cycle: float, num_bytes: int,
             read_bursts: int = READ_BURSTS) -> BenchDesign:
    """The read DMA before a memory of this latency and bandwidth (sim/tb/dma_rate.py)."""
    dma = _dma(axi_bits, vector_bytes, fifo_beats, f"rate_{read_bursts}", read_bursts)
    return replace(dma, module="tb.dma_rate",
                   own={**dma.own, "latency": latency, "bytes_per_cycle": bytes_per_cycle, "num_bytes": num_bytes})


def _writer(axi_bits, word_bits, fifo_words, label):
    return BenchDesign(f"writer_{label}", "tb.output_writer",
                       lambda: harness.AxiTop(OutputWriter(axi_bits, word_bits, fifo_words), ("aw", "w", "b"), "m_axi_", True), (), None,
                       {"axi_bits": axi_bits, "word_bits": word_bits, "fifo_words": fifo_words})


DESIGNS: tuple[BenchDesign, ...] = (
    _pe(SQUARE, "square"), _pe(NARROW, "narrow"), _pe(TALL, "tall"), _pe(NARROW, "packed_narrow"), _pe(TALL, "packed_tall"),
    _pe(WIDE, "wide"), _pe(WIDE, "packed_wide"), _pe(NARROW, "packed_fabric"), _pe(WIDE, "packed_fabric_wide"),
    _array("accumulator", SQUARE, harness.accumulator, "square"),
    _array("feed_lanes", SQUARE, harness.feed_lanes, "square"), _array("feed_lanes", replace(TALL, wide=True), harness.feed_lanes, "tall"),
    _array("feed_lanes", LISTS, harness.feed_lanes, "lists"),
    _drain(replace(SQUARE, packed=True), 0, "square"), _drain(replace(TALL, wide=True, operand_words=16, rotate=True, bypass=True), 1, "tall"),
    _drain(replace(WIDE, packed=True, operand_words=16), 2, "wide"),
    _drain(replace(THREE_QUARTERS, packed=True, wide=True, operand_words=16, rotate=True), 3, "three_quarters"),
    _drain(replace(SQUARE, packed=True, bypass=True), 0, "bypass"),
    _memory(SQUARE, 16, 32, 1, "one"), _memory(NARROW, 8, 32, 1, "half"), _memory(NARROW, 8, 32, 2, "two"),
    _memory(THREE_QUARTERS, 8, 16, 3, "four"), _memory(THREE_QUARTERS, 8, 16, 4, "straight", rotate=False),
    BenchDesign("norm_coefficients", "tb.coefficients", NormCoefficients),
    BenchDesign("norm_coefficients_wide", "tb.coefficients", lambda: NormCoefficients(True)),
    BenchDesign("norm_coefficients_rms", "tb.coefficients", lambda: NormCoefficients(True, True)),
    BenchDesign("softmax_factor", "tb.coefficients", SoftmaxFactor),
    BenchDesign("loader_square", "tb.loader", lambda: Loader(SQUARE), (), SQUARE),
    BenchDesign("loader_narrow", "tb.loader", lambda: Loader(NARROW), (), NARROW),
    BenchDesign("loader_wide", "tb.loader", lambda: Loader(WIDE), (), WIDE),
    BenchDesign("loader_bypass", "tb.loader", lambda: Loader(replace(WIDE, bypass=True)), (), replace(WIDE, bypass=True)),
    BenchDesign("loader_mixes", "tb.loader", lambda: Loader(replace(NARROW, mixes=True)), (), replace(NARROW, mixes=True)),
    BenchDesign("loader_three_quarters", "tb.loader", lambda: Loader(THREE_QUARTERS), (), THREE_QUARTERS),
    _fetch(True, "feed"), _fetch(False, "load"), _fetch(True, "feed_lengths", (16, 8)), _fetch(False, "load_lengths", (64, 48)),
    BenchDesign("feeder_narrow", "tb.feeder", lambda: Feeder(replace(NARROW, wide=True)), (), replace(NARROW, wide=True)),
    BenchDesign("feeder_causal", "tb.feeder", lambda: Feeder(replace(TALL, causal=True)), (), replace(TALL, causal=True)),
    _feeder(LISTS, "lists"), _feeder(replace(THREE_QUARTERS, wide=True, bypass=True), "bypass_three_quarters"),
    BenchDesign("feeder_three_quarters", "tb.feeder", lambda: Feeder(THREE_QUARTERS), (), THREE_QUARTERS),
    BenchDesign("feeder_operands", "tb.feeder", lambda: Feeder(OPERANDS), (), OPERANDS),
    _attention(ATTENTION, "attention"), _attention(replace(ATTENTION, causal=True), "attention_causal"),
    _picker(8, 8, 32, "square"), _picker(16, 48, 64, "three_quarters"),
    _router(1, 1, 8, "one"), _router(5, 2, 32, "five"), _router(16, 4, 32, "sixteen"), _router(6, 6, 16, "all"), _router(64, 4, 8, "sixty_four"),
    _router(1, 1, 8, "score_of_one", True), _router(9, 5, 32, "scores_of_nine", True), _router(20, 7, 8, "scores_of_twenty", True),
    _fifo(16, 2, "two"), _fifo(72, 5, "five"), _fifo(64, 16, "sixteen"),
    _dma(64, 8, 32, "equal"), _dma(32, 16, 32, "join"), _dma(128, 8, 16, "split"), _dma(64, 8, 64, "few", read_bursts=3),
    dma_rate(64, 8, 1024, 250, 8, 1 << 15), dma_rate(64, 8, 1024, 250, 8, 1 << 15, read_bursts=8),
    _writer(64, 256, 8, "four"), _writer(128, 128, 4, "one"),
    _registers(False, "registers"), _registers(True, "registers_lengths"),
)
BY_NAME = {design.name: design for design in DESIGNS}
