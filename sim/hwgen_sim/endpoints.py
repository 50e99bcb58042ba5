"""Clock, drivers and monitors of the benches.

Cycle n lasts from falling edge n to n + 1 with the active edge in its middle: inputs are set at the falling edge, outputs are
sampled after that and before the active edge. So simulators cannot disagree about the order, and a value L register stages after
an input of cycle n is seen in cycle n + L.
"""

from collections.abc import Callable, Iterator

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from .bench import parameters
from .checker import BenchFailure, TimedChecker

PERIOD_NS = 10


async def start(dut, **inputs: int) -> None:
    """Clock on, the named inputs set (all others 0), reset given; returns right after a falling edge."""
    for name in parameters()["inputs"]:
        getattr(dut, name).value = inputs.get(name, 0)
    dut.clk.value = 0
    Clock(dut.clk, PERIOD_NS, unit="ns").start()
    if hasattr(dut, "rst"):
        dut.rst.value = 1
        for _ in range(3):
            await FallingEdge(dut.clk)
        dut.rst.value = 0
    await FallingEdge(dut.clk)


def sample(handle) -> int | None:
    """Unsigned value, None if a bit is undefined."""
    value = handle.value
    return int(value) if value.is_resolvable else None


class TimedDriver:
    """Sets inputs at planned cycles; an input keeps its value until the next plan."""

    def __init__(self, dut):
        self.dut, self.plan = dut, {}

    def at(self, cycle: int, **inputs: int) -> None:
        self.plan.setdefault(cycle, {}).update(inputs)

    def drive(self, cycle: int) -> None:
        for name, value in self.plan.get(cycle, {}).items():
            getattr(self.dut, name).value = value


class TimedMonitor:
    """Gives the checker the ports it wants in each cycle."""

    def __init__(self, dut, checker: TimedChecker):
        self.dut, self.checker = dut, checker

    def look(self, cycle: int) -> None:
        for port in self.checker.wanted(cycle):
            self.checker.observe(cycle, port, sample(getattr(self.dut, port)))


async def run_timeline(dut, driver: TimedDriver, checker: TimedChecker) -> None:
    """Cycle 0 is now; runs until every planned and expected cycle has passed, then `finish`es the checker."""
    monitor = TimedMonitor(dut, checker)
    for cycle in range(max((*driver.plan, *checker.expected)) + 2):
        driver.drive(cycle)
        await ReadOnly()
        monitor.look(cycle)
        await FallingEdge(dut.clk)
    checker.finish()


class StreamMonitor:
    """Valid / ready / data stream: sets ``ready`` by a stall pattern and reports every word that is taken.

    Also checks that a waiting word stays, and stays the same, unless ``may_drop`` is set. ``valid`` must not depend on
    ``ready`` within a cycle.
    """

    def __init__(self, dut, prefix: str, report: Callable[[int], None], stall: Iterator[bool]):
        self.clk, self.prefix = dut.clk, prefix
        self.valid, self.ready, self.data = (getattr(dut, prefix + name) for name in ("valid", "ready", "data"))
        self.report, self.stall, self.waiting, self.may_drop = report, stall, None, False

    async def run(self) -> None:
        """Endless: for ``cocotb.start_soon``, right after a falling edge."""
        while True:
            word = sample(self.data) if sample(self.valid) == 1 else None
            if self.waiting is not None and word != self.waiting and not self.may_drop:
                raise BenchFailure(f"{self.prefix}data changed from {self.waiting:#x} to {word} before it was taken")
            pause = next(self.stall)
            self.ready.value = not pause
            self.waiting = word if pause else None
            if word is not None and not pause:
                self.report(word)
            await FallingEdge(self.clk)
