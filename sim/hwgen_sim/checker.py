"""Checkers: what came out against what should have, and that it came at all."""

from collections import deque
from collections.abc import Hashable


class BenchFailure(AssertionError):
    """The design differs from its golden model."""


class TimedChecker:
    """Values expected at certain cycles; every expected one must be observed by `finish`."""

    def __init__(self):
        self.expected: dict[int, dict[str, tuple[int, str]]] = {}
        self.num_checked = 0

    def expect(self, cycle: int, note: str = "", **values: int) -> None:
        """Port values (unsigned, as wide as the port) at ``cycle``; ``note`` is shown when they differ."""
        slot = self.expected.setdefault(cycle, {})
        for port, value in values.items():
            if port in slot:
                raise ValueError(f"{port} is expected twice at cycle {cycle}")
            slot[port] = (value, note)

    def wanted(self, cycle: int) -> tuple[str, ...]:
        """Ports to look at in this cycle."""
        return tuple(self.expected.get(cycle, ()))

    def observe(self, cycle: int, port: str, value: int | None) -> None:
        """None: the port had an undefined bit."""
        want, note = self.expected[cycle].pop(port)
        if value != want:
            got = "undefined bits" if value is None else f"{value:#x}"
            raise BenchFailure(f"{port} at cycle {cycle} is {got}, not {want:#x} {note}")
        self.num_checked += 1

    def finish(self) -> None:
        missing = {cycle: tuple(ports) for cycle, ports in self.expected.items() if ports}
        if missing:
            cycle = min(missing)
            number = sum(map(len, missing.values()))
            raise BenchFailure(f"{number} expected values were never looked at, first {missing[cycle]} at cycle {cycle}")
        if self.num_checked == 0:
            raise BenchFailure("nothing was checked")


class StreamChecker:
    """Items expected in order, without regard to time."""

    def __init__(self, name: str):
        self.name, self.expected, self.num_checked = name, deque(), 0

    def expect(self, item: Hashable) -> None:
        self.expected.append(item)

    def observe(self, item: Hashable) -> None:
        if not self.expected:
            raise BenchFailure(f"{self.name}: {item!r} came although nothing more is expected")
        if (want := self.expected.popleft()) != item:
            raise BenchFailure(f"{self.name}: item {self.num_checked} is {item!r}, not {want!r}")
        self.num_checked += 1

    def finish(self) -> None:
        if self.expected:
            raise BenchFailure(f"{self.name}: {len(self.expected)} items did not come, the first is {self.expected[0]!r}")
        if self.num_checked == 0:
            raise BenchFailure(f"{self.name}: nothing was checked")
