"""How long cells and nets take, in ns. A model, not a vendor's: it is not fitted to any place and route."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delays:
    """Of one family and speed grade, ns. ``nets``: (largest fan-out, delay), the last one for all beyond.

    launch, setup   of a flip-flop; enable: set-up of its enable and reset
    lut, mux        through a look-up table; through the multiplexer behind two of them
    carry_in, carry, carry_out   into a carry chain, along it for each cell, out of it to a sum
    memory, memory_setup         a block RAM without output register: clock to word; its set-up
    lutram, shift   distributed RAM: address to word; a shift register: clock to word
    product         a DSP slice without inner registers: operand to result
    """

    source: str
    launch: float
    setup: float
    enable: float
    lut: float
    mux: float
    carry_in: float
    carry: float
    carry_out: float
    memory: float
    memory_setup: float
    lutram: float
    shift: float
    product: float
    nets: tuple[tuple[float, float], ...]

    def net(self, loads: int) -> float:
        """A net with so many loads."""
        return next(delay for most, delay in self.nets if loads <= most)


ULTRASCALE_PLUS = Delays(
    source="UltraScale+ -2 at 0.85 V: block RAM and DSP48E2 after DS925/DS958, look-up tables, carry and nets as they are typical; not fitted",
    launch=0.08, setup=0.06, enable=0.10, lut=0.10, mux=0.06, carry_in=0.17, carry=0.02, carry_out=0.08, memory=0.90, memory_setup=0.25,
    lutram=0.15, shift=0.40, product=1.55,
    nets=((4, 0.30), (16, 0.40), (64, 0.55), (256, 0.80), (1024, 1.10), (float("inf"), 1.40)))
