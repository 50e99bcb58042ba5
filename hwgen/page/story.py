"""What a report says, as answers to the questions people have: how fast, does it fit, what limits it, how accurate, what is worst, under
what assumptions. The page, the terminal and the comparison of builds tell the same story.

The input is what ``hwgen report --json`` writes (docs/reference/json.md). An answer that it does not hold is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import BuildVersionError
from .nodes import counted, rows_of
from .words import decibels, digits, duration, kilobytes, percent, plural, short, tail

UNKNOWN = "not known"
BOUND_BY_MEMORY = 0.9  # of its cycles an HLS project takes with every port, if memory is its limit
FULL = 0.85              # share of a kind of cell from which a clock near the fastest is not to be expected
CROWDED = ", which leaves place and route little room"
LEAST_OVER = 1.001       # times the limit, below which it counts as reached
NO_LOSS = 200.0  # dB, of values without any error
TIE = 0.1  # dB, within which the worst layers are as bad
KINDS = {"lut": "LUT", "ff": "flip-flops", "dsp": "DSP slices", "bram36": "block RAM (36 kbit)", "uram": "UltraRAM"}
RIGHT = "How many answers are right needs labels: hwgen simulate --input with an array named like the output prints it."
CLOCK = "the clock of the board file: no tool has shown that the engine reaches it"


@dataclass(frozen=True)
class Answer:
    """One of them. short: a few words for a tile; long: a sentence; stage: where it comes from (estimate, rtl simulation, ...)."""

    question: str
    short: str
    long: str
    stage: str


@dataclass(frozen=True)
class Speed:
    """Cycles of an image, the stage they come from, and the memory they hold for."""

    stage: str
    cycles: float
    memory: Mapping[str, Any]
    images: int = 0
    bit_exact: bool | None = None


@dataclass(frozen=True)
class Layer:
    """A value of the network and its error in dB: of all that came before it, and of the outputs if it alone were in integers."""

    node: str
    value: str
    format: str
    clipped: float
    snr_db: float
    alone_db: float | None


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Round what reads a report. Raises BuildVersionError where it holds something else than hwgen writes; anyone may have written it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise BuildVersionError(
            f"the report holds something else than this hwgen writes ({type(error).__name__}: {str(error)[:120]})",
            where=where,
            hint="compile the model again",
        ) from error


class Story:
    """The answers of one report."""

    def __init__(self, data: Mapping[str, Any]):
        self.data = data

    def __repr__(self) -> str:
        return f"<Story of {self.name} on {self.board.get('name', UNKNOWN)}>"

    # ------------------------------------------------------------ figures

    @property
    def name(self) -> str:
        """Of the network."""
        return str(self.data.get("network", {}).get("name", "network"))

    @property
    def board_name(self) -> str:
        return str(self.board.get("name", "no board"))

    @property
    def version(self) -> str:
        """Of hwgen."""
        return str(self.data.get("version", UNKNOWN))

    @property
    def board(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.data.get("board", {})
        return found

    @property
    def hls(self) -> Mapping[str, Any]:
        """Its section; empty for a build without an HLS project."""
        found: Mapping[str, Any] = self.data.get("hls", {})
        return found

    @property
    def backend(self) -> str:
        """What was generated."""
        return "RTL and HLS C++" if self.hls and "estimate" in self.data else "HLS C++" if self.hls else "RTL"

    @cached_property
    def speed(self) -> Speed | None:
        """By simulation if there was one, else by the cycle model; of RTL if the build holds it."""
        if simulated := self.data.get("simulation"):
            return Speed("rtl simulation", simulated["cycles_per_image"], simulated["memory"], simulated["images"], simulated["bit_exact"])
        for key in ("estimate", "hls"):
            if key in self.data:
                return Speed("estimate", self.data[key]["cycles_per_image"], self.data[key]["memory"])
        return None

    @property
    def clock_mhz(self) -> float | None:
        return self.board.get("clock_mhz")

    @property
    def latency_ms(self) -> float | None:
        return self.speed.cycles / self.clock_mhz / 1e3 if self.speed and self.clock_mhz else None

    @property
    def images_per_second(self) -> float | None:
        return 1e3 / self.latency_ms if self.latency_ms else None

    @property
    def macs_per_cycle(self) -> int:
        """Of the array at its best; 0 where nothing says it."""
        return int(self.data.get("array", self.hls).get("macs_per_cycle", 0))

    @property
    def utilization(self) -> float | None:
        """Useful multiply-accumulates over what the array could do in that time."""
        macs = self.data.get("network", {}).get("useful_macs_per_image")
        return macs / (self.speed.cycles * self.macs_per_cycle) if macs and self.speed and self.macs_per_cycle else None

    @cached_property
    def used(self) -> dict[str, tuple[float, float | None]]:
        """{kind: (cells used, cells of the board or None)}; an HLS project's where there is no RTL."""
        found = self.data.get("resources", {})
        available = found.get("available") or self.board.get("cells", {})
        used = found.get("used") or self.hls.get("resources", {})
        return {kind: (used[kind], available.get(kind)) for kind in KINDS if kind in used and (used[kind] or available.get(kind))}

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Further figures of the head of the page: (name with unit, value)."""
        macs, read = self.data.get("network", {}).get("useful_macs_per_image"), self.data.get("weight_bytes")
        found = [("useful multiply-accumulates an image", macs and short(macs)), ("weights read a frame", read and kilobytes(read)),
                 ("array used", self.utilization and percent(self.utilization))]
        if self.latency_ms and macs:
            found.append(("useful multiply-accumulates a second", short(macs / self.latency_ms * 1e3)))
        if self.speed and self.clock_mhz and self.speed.memory.get("bytes_per_cycle"):
            found.append(("memory bandwidth counted on (GB/s)", digits(self.speed.memory["bytes_per_cycle"] * self.clock_mhz / 1e3)))
        found.append(("energy", "not known"))
        return [(name, str(value)) for name, value in found if value]

    @property
    def fullest(self) -> tuple[str, float] | None:
        """(kind, share) of what the board has least to spare."""
        shares = [(kind, used / of) for kind, (used, of) in self.used.items() if of]
        return max(shares, key=lambda item: item[1], default=None)

    @cached_property
    def layers(self) -> list[Layer]:
        """Values inside the network, in its order."""
        return [
            Layer(row["node"], row["value"], row["format"], row["clipped"], row["snr_db"], row["alone_db"])
            for row in self.data.get("quantization", {}).get("layers", ())
            if row["snr_db"] is not None
        ]

    @property
    def worst(self) -> Layer | None:
        """What costs the outputs most by itself; where that was not computed, where the error is largest."""
        inner = [layer for layer in self.layers if layer.format != "output" and layer.snr_db < NO_LOSS]
        known = [layer for layer in inner if layer.alone_db is not None]
        if known:
            return min(known, key=lambda layer: layer.alone_db or 0.0)
        return min(inner, key=lambda layer: layer.snr_db, default=None)

    @property
    def output_errors(self) -> dict[str, float]:
        """{output: relative error, root mean square}; empty where it is not known."""
        found = self.data.get("quantization", {}).get("output_error") or {}
        return dict(found) if isinstance(found, Mapping) else {}

    # ------------------------------------------------------------ answers

    @property
    def answers(self) -> list[Answer]:
        """All six."""
        return [self.how_fast, self.fits, self.limit, self.accuracy, self.worst_layer, self.assumptions]

    @property
    def how_fast(self) -> Answer:
        if self.speed is None or self.latency_ms is None:
            return Answer("How fast is it?", UNKNOWN, "The build holds no figure of cycles.", "")
        rate = self.images_per_second or 0.0
        words = f"{duration(self.latency_ms)} an image"
        tile = f"{words}, {digits(rate)} images a second"
        exact: dict[bool | None, str] = {True: ", every output word equal to the integer model",
                                         False: ", with output words that differ from the integer model"}
        source = (
            f"RTL simulation of {plural(self.speed.images, 'image')}{exact.get(self.speed.bit_exact, '')}"
            if self.speed.images
            else "estimate of the cycle model; never simulated"
        )
        return Answer(
            "How fast is it?",
            tile,
            f"{digits(self.speed.cycles)} cycles at {digits(self.clock_mhz or 0.0)} MHz ({source}).",
            self.speed.stage,
        )

    @property
    def fits(self) -> Answer:
        name = self.board.get("name", "the board")
        if not self.fullest:
            return Answer("Does it fit?", "no limits stated", f"{name} states no numbers of cells, or they are not in the report.", "estimate")
        kind, share = self.fullest
        verdict = "yes" if share <= 1 else "no"
        return Answer(
            "Does it fit?",
            f"{verdict}, by estimate: {percent(share)} of the {KINDS[kind]}",
            f"{verdict.capitalize()}, on {name}: the fullest kind of cell is "
            f"{KINDS[kind]}, {percent(share)} of the chip's{CROWDED if share > FULL else ''}. No synthesis or place-and-route stands behind it.",
            "estimate",
        )

    @property
    def limit(self) -> Answer:
        limits = self.data.get("limits")
        if not limits and self.hls and self.speed:
            every = self.hls["all_ports"]["cycles_per_image"] / self.speed.cycles
            what = "memory bandwidth" if every < BOUND_BY_MEMORY else "the kernels' own cycles"
            return Answer(
                "What limits it?",
                what,
                f"{what.capitalize()}: with every memory port of the board a frame would take {percent(every)} of the cycles.",
                "estimate",
            )
        if not limits or self.speed is None:
            return Answer("What limits it?", UNKNOWN, "The report holds no limits; `hwgen compile` with the RTL backend states them.", "")
        by = limits["bound_by"]
        least = max(limits["array_limit_cycles"], limits["memory_limit_cycles"])
        over = self.speed.cycles / least
        reasons = {
            "memory": f"reading the weights and the input once takes {limits['memory_limit_cycles']:,} cycles, the products only "
            f"{limits['array_limit_cycles']:,}",
            "array": f"the products keep the array busy for {limits['array_limit_cycles']:,} cycles, reading the "
            f"weights takes {limits['memory_limit_cycles']:,}",
        }
        what = {"memory": "memory bandwidth", "array": "the array"}[by]
        rest = "" if over < 1 else f"; the frame takes {percent(over - 1) if over > LEAST_OVER else 'less than 0.1 %'} more than that"
        every = self.data.get("all_ports", {})
        more = ""
        if by == "memory" and every.get("memory", {}).get("ports", 1) > 1:
            ports = f"{every['memory']['ports']} ports of the board ({every['built']})"
            more = f" Through all {ports} it would take {digits(every['cycles_per_image'])} cycles, by estimate."
        return Answer("What limits it?", what, f"{what.capitalize()}: {reasons[by]}{rest}.{more}", self.speed.stage)

    @property
    def accuracy(self) -> Answer:
        cosine = self.data.get("onnx_cosine")
        file = f" The float network equals the ONNX file (smallest cosine {cosine:.7f})." if cosine is not None else ""
        if not self.output_errors:
            return Answer("How accurate is it?", "unknown: calibrated with seeded noise",
                          "Give real images: hwgen compile --calib FILE.npz." + file, "")
        worst = max(self.output_errors, key=lambda name: self.output_errors[name])
        error = self.output_errors[worst]
        images = self.data["quantization"]["images"]
        return Answer(
            "How accurate is it?",
            f"{digits(decibels(error))} dB",
            f"The integers are {digits(decibels(error))} dB from the float network: the error of "
            f"output {worst} is {percent(error)} of its size (root mean square, {plural(images, 'calibration image')}).{self._flips} {RIGHT}{file}",
            "golden model",
        )

    @property
    def _flips(self) -> str:
        """A sentence on the routers, where there are any."""
        routers = self.data["quantization"].get("routers", ())
        flips, decisions = (sum(row[key] for row in routers) for key in ("flips", "decisions"))
        if not decisions:
            return ""
        return f" Of {decisions:,} router decisions {flips:,} ({percent(flips / decisions)}) choose other experts than in the float network."

    @property
    def worst_layer(self) -> Answer:
        layer = self.worst
        if layer is None:
            return Answer("Which layer is worst?", UNKNOWN, f"No error by layer is known.{self._slowest}", "")
        if layer.alone_db is None:
            text = (f"{layer.node} has the lowest signal to noise, {digits(layer.snr_db)} dB, but errors pile up and those of all layers before "
                    "it are in that. Its own share was not computed, the network is large: acc.layer_errors(images) does")
        else:
            alone = f"if it alone were in integers ({layer.format})"
            text = f"{layer.node}: {alone}, the outputs would be {digits(layer.alone_db)} dB from the float network{self._tied(layer.alone_db)}"
        return Answer("Which layer is worst?", tail(layer.node), f"{text}.{self._slowest}", "golden model")

    def _tied(self, least: float) -> str:
        """Other nodes whose share is nearly that of the worst."""
        near = [other for other in self.layers if other is not self.worst and other.alone_db is not None and other.alone_db < least + TIE]
        return f", practically tied with {', '.join(f'{one.node} ({digits(one.alone_db or 0.0, 4)})' for one in near[:3])}" if near else ""

    @property
    def _slowest(self) -> str:
        """A sentence on the node that takes most cycles, where they are known by node."""
        rows = counted(self.cycles_by_node)
        total = sum(row["cycles"] for row in self.cycles_by_node)
        if not total or not rows:
            return ""
        row = max(rows, key=lambda row: row["cycles"])
        return f" Slowest is {row['node']}, with {percent(row['cycles'] / total)} of the cycles."

    @property
    def assumptions(self) -> Answer:
        return Answer(
            "Under what assumptions?",
            f"{digits(self.clock_mhz or 0.0)} MHz, {self._memory('bytes_per_cycle')} B a cycle",
            "; ".join(self.conditions) + ".",
            "",
        )

    @property
    def conditions(self) -> list[str]:
        """What the figures hold for."""
        lines = [f"{digits(self.clock_mhz or 0.0)} MHz, {CLOCK}"]
        if self.speed:
            memory = self.speed.memory
            planned = self.data.get("estimate", {}).get("memory", {})
            used = memory.get("ports") or (planned.get("ports") if planned.get("bytes_per_cycle") == memory.get("bytes_per_cycle") else None)
            ports = f" ({used} of {self.board['ports']['number']} ports)" if used and "ports" in self.board else ""
            stall = f", stalling in {percent(memory['stall'])} of the cycles" if memory.get("stall") else ""
            lines.append(
                f"memory gives {self._memory('bytes_per_cycle')} bytes a cycle{ports} after {self._memory('latency')} cycles of latency{stall}"
            )
        lines.append(
            f"{self.data.get('precision', UNKNOWN)} weights and activations, {plural(int(self.data.get('batch', 1)), 'image')} a frame"
        )
        if self.data.get("lengths"):
            lines.append(f"sequences of {self.data['lengths']['longest']} tokens, the longest the build takes")
        if (tasks := self.data.get("network", {}).get("tasks", 1)) > 1:
            which = "their average" if self.speed and self.speed.images else "those of the first task"
            lines.append(f"a frame is for one of {tasks} tasks, cycles are {which}")
        if self.output_errors:
            lines.append(f"accuracy is that on {plural(self.data['quantization']['images'], 'calibration image')}, not on others")
        lines.append("weights are read once a frame; host time is not counted")
        return lines

    def _memory(self, key: str) -> str:
        value = self.speed.memory.get(key) if self.speed else None
        return UNKNOWN if value is None else digits(float(value))

    # ------------------------------------------------------------ where cycles go

    @cached_property
    def cycles_by_cause(self) -> dict[str, float]:
        """{what they were for: cycles of an image}; empty without RTL."""
        if found := self.data.get("stalls"):
            return {
                "computing": found["issue"],
                "waiting for weights": found["wait_tile"],
                "waiting for results": found["wait_hazard"],
                "waiting for the output": found["wait_output"],
                "input, output, pipeline": max(0.0, found["other"]),
            }
        rows = self.data.get("instructions")
        if not rows:
            return {}
        waits = {
            "waiting for weights": float(sum(row["wait_tile"] for row in rows)),
            "waiting for results": float(sum(row["wait_hazard"] for row in rows)),
        }
        total = rows[-1]["start"] + rows[-1]["cycles"]
        return {"computing and transfers": max(0.0, total - sum(waits.values())), **waits}

    @cached_property
    def cycles_by_node(self) -> list[dict[str, Any]]:
        """Cycles, useful multiply-accumulates and waits of each ONNX node, in the order of the program: node, cycles, useful_macs, wait_tile,
        wait_hazard, utilization, skipped (its task is not the one of the cycles); `END` for what belongs to no node. Simulated if there was a
        simulation; empty without RTL."""
        return rows_of(self.data, self.macs_per_cycle)
