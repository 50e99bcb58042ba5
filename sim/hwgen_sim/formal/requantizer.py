"""rtl/sv/drain_lanes.sv: shift, rounding and saturation of the requantizer are those of `hwgen.numerics.requantize`, for every sum.

One lane. The multiplier is a constant, since a solver cannot multiply 32 by 16 bits in both of two ways; benches have the products.
"""

from amaranth.hdl import C, ClockSignal, Instance, Module, Mux, Signal, signed

from hwgen import numerics

from .claims import Claim, Fault, Proof

LATENCY = 8              # cycles from a sum to its words
KNOTS = r"    for \(genvar h = 0; h < 16 \* FUNCTIONS.*?\n    end\n"           # the values of a table of activations


class Requantizer(Proof):
    """Any sum and shift in any cycle, to 8 or 16 bits."""

    def __init__(self, fine: int, mult: int):
        self.fine, self.mult = fine, mult
        super().__init__({"acc": 32, "shift": 6, "to16": 1}, ("rounds_and_saturates",), ("shift_of_a_multiplier",))

    def watch(self, m: Module) -> None:
        off = ("load_en", "load_bank", "load_index", "load_data", "bank", "column_params", "stream", "data", "through", "act", "which", "frac",
               "second", "mult2", "act_columns", "plane", "operand", "other", "residual", "fresh", "out", "mean", "first_token", "last_token",
               "old")
        word8, word16 = Signal(signed(8)), Signal(signed(16))
        m.submodules.drain = Instance(
            "drain_lanes", p_VB=C(8, 32), p_TO=C(1, 32), p_FINE=C(self.fine, 32), i_clk=ClockSignal(), i_valid=C(1, 1), i_acc=self.acc,
            i_mult=C(self.mult, 16), i_shift=self.shift, i_to16=self.to16, i_shift2=C(16, 6), i_lanes=C(1, 7),
            **{f"i_{name}": C(0, 1) for name in off}, o_word8=word8, o_word16=word16)
        inputs, count = [(self.acc, self.shift, self.to16)], Signal(range(LATENCY + 1))
        for cycle in range(LATENCY):
            later = Signal(32, name=f"acc_{cycle}"), Signal(6, name=f"shift_{cycle}"), Signal(name=f"to16_{cycle}")
            m.d.sync += [new.eq(old) for new, old in zip(later, inputs[-1], strict=True)]
            inputs.append(later)
        m.d.sync += count.eq(count + (count != LATENCY))
        acc, shift, to16 = inputs[-1]
        product, rounded, limit = Signal(signed(64)), Signal(signed(64)), Signal(signed(64))
        wanted = Signal(signed(16))
        m.d.comb += [product.eq(acc.as_signed() * self.mult), rounded.eq((product + ((C(1, 64) << shift) >> 1)) >> shift),
                     limit.eq(Mux(to16, 32767, 127)), wanted.eq(Mux(rounded > limit, limit, Mux(rounded < -limit, -limit, rounded))),
                     self.given_shift_of_a_multiplier.eq((self.shift != 0) & (self.shift <= numerics.MAX_SHIFT)),
                     self.must_rounds_and_saturates.eq((count != LATENCY) | Mux(to16, word16 == wanted, word8 == wanted))]


def _claim(fine: int, mult: int) -> Claim:
    return Claim(f"a sum is rounded and saturated as numerics says, shifts in steps of {1 << fine}", "arrays",
                 lambda _: Requantizer(fine, mult), depth=LATENCY + 2, induction=True, sv=("drain_lanes",), without=KNOTS,
                 faults={"rounds_and_saturates": Fault("drain_lanes.sv", "{15'd0, w[0]}", "16'd0")})


CLAIMS = (_claim(3, 1 << numerics.MULT_BITS - 1), _claim(1, 1 << numerics.MULT_BITS - 1))
