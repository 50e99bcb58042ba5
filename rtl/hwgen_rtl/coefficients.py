"""Per-token coefficients: LayerNorm mean and multiplier, softmax row factor. Pipelines without stall or reset state."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen import numerics

MULT, SHIFT = numerics.MULT_BITS, 6
VARIANCE_BITS = 56       # D**2 * variance + eps: D < 2**12 and |x| < 2**15 give less than 2**54 + 2**48
SUM_BITS = 32
MEAN_BITS = 21           # 16 x for |x| < 2**15 and a sign


class Pipeline:
    """Registers one stage after another; a value given to `stage` comes back as its register of the next stage."""

    def __init__(self, m: Module):
        self.m, self.depth = m, 0

    def stage(self, **values):
        """One register per keyword, named ``name_depth``, as wide (and signed) as the value; returned in the same order."""
        self.depth += 1
        registers = []
        for name, value in values.items():
            register = Signal(value.shape(), name=f"{name}_{self.depth}", reset_less=True)
            self.m.d.sync += register.eq(value)
            registers.append(register)
        return registers[0] if len(registers) == 1 else registers


def _normalise(value, steps):
    """(value shifted left, number of positions): by every step of ``steps`` for which that many leading bits are 0."""
    moved = []
    for step in steps:
        empty = value[-step:] == 0
        value = Mux(empty, Cat(C(0, step), value[:-step]), value)
        moved.append(empty)
    return value, moved


def _moved(steps, flags):
    """Bits of a number from the taken steps; steps are falling powers of two."""
    return Cat(C(0, steps[-1].bit_length() - 1), *reversed(flags))


def _clip_shift(m: Module, value, name):
    """1..MAX_SHIFT, 6 bits."""
    result = Signal(SHIFT, name=name)
    m.d.comb += result.eq(Mux(value < 1, 1, Mux(value > numerics.MAX_SHIFT, numerics.MAX_SHIFT, value[:SHIFT])))
    return result


def _table(m: Module, name, values, address):
    """Registered look-up: the entry one cycle after its address."""
    m.submodules[name] = memory = Memory(shape=16, depth=256, init=[int(v) for v in values])
    port = memory.read_port()
    m.d.comb += [port.addr.eq(address), port.en.eq(1)]
    return port.data


class NormCoefficients(wiring.Component):
    """LayerNorm statistics of one token -> mean and multiplier (numerics.norm_coefficients), bit for bit.

    total, squares   sums of x (signed 32) and x * x (48) over ``dim`` (12) channels; eps 48, at least 1
    inv_*            multiplier 16 and shift 6 of 16 / dim;  mult, shift: of dim / (16 * output scale)
    raw              with ``wide``: no statistics, mean 0, multiplier and shift are mult and shift
    centred          with ``rms``: if not, total counts as 0
    mean             signed 21, unit 2**-4
    multiplier, out_shift   16 and 6 bits, for requantize; shift 1..47

    All outputs LATENCY cycles after the inputs, one token per cycle, no reset needed. dim * squares - total**2 + eps must be
    within 1..2**56 - 1, which it is for |x| <= 32767. Cost: five wide products (DSP), one table of 256 x 16 bits.
    """

    LATENCY = 11

    def __init__(self, wide: bool = False, rms: bool = False):
        self.wide, self.rms = wide, rms
        super().__init__({
            "total": In(signed(32)), "squares": In(48), "dim": In(12), "eps": In(48), "inv_mult": In(MULT), "inv_shift": In(SHIFT),
            "mult": In(MULT), "shift": In(SHIFT), "mean": Out(signed(MEAN_BITS)), "multiplier": Out(MULT), "out_shift": Out(SHIFT),
            **({"raw": In(1)} if wide else {}), **({"centred": In(1)} if rms else {})})

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m)
        raw = [self.raw] if self.wide else []   # after so many stages
        for stage in range(self.LATENCY if self.wide else 0):
            raw.append(Signal(name=f"raw_{stage + 1}", reset_less=True))
            m.d.sync += raw[-1].eq(raw[-2])

        def without(plain, value):
            """``plain`` where there are no statistics, behind the newest registers."""
            return Mux(raw[pipe.depth], plain, value) if self.wide else value
        total = Mux(self.centred, self.total, C(0, signed(32))) if self.rms else self.total
        total, squares, dim, eps, inv_mult, inv_shift, mult, shift = pipe.stage(
            total=total, squares=self.squares, dim=self.dim, eps=self.eps, inv_mult=self.inv_mult, inv_shift=self.inv_shift,
            mult=self.mult, shift=self.shift)
        # products, one stage more than their register for the DSP cascade
        power, square, scaled, eps, inv_shift, mult, shift = pipe.stage(
            power=(dim * squares)[:VARIANCE_BITS], square=(total * total)[:VARIANCE_BITS], scaled=total * inv_mult, eps=eps,
            inv_shift=inv_shift, mult=mult, shift=shift)
        power, square, scaled, eps, inv_shift, mult, shift = pipe.stage(
            power=power, square=square, scaled=scaled, eps=eps, inv_shift=inv_shift, mult=mult, shift=shift)
        half = Signal(48)
        m.d.comb += half.eq((C(1, 1) << inv_shift)[1:])
        variance, rounded, inv_shift, mult, shift = pipe.stage(
            variance=(power - square + eps)[:VARIANCE_BITS], rounded=scaled + half, inv_shift=inv_shift, mult=mult, shift=shift)
        # leading bits of the variance: the exponent is even, so steps of two positions
        wide, narrow = (32, 16), (8, 4, 2)
        value, flags = _normalise(variance, wide)
        coarse = (rounded >> Cat(C(0, 4), inv_shift[4:]))[:MEAN_BITS + 15].as_signed()     # largest steps first: later ones are narrow
        middle = (coarse >> Cat(C(0, 2), inv_shift[2:4]))[:MEAN_BITS + 3].as_signed()
        mean = (middle >> inv_shift[:2])[:MEAN_BITS].as_signed()
        value, flags, mean, mult, shift = pipe.stage(value=value, flags=Cat(*flags), mean=mean, mult=mult, shift=shift)
        high = list(flags)
        value, flags = _normalise(value, narrow)
        m16, moved, mean, mult, shift = pipe.stage(
            mantissa=value[-16:], moved=_moved(wide + narrow, high + flags), mean=without(0, mean), mult=mult, shift=shift)
        # table and Newton step
        y0 = _table(m, "rsqrt", numerics.RSQRT, m16[8:])
        m16, moved, mean, mult, shift = pipe.stage(mantissa=m16, moved=moved, mean=mean, mult=mult, shift=shift)
        y0, q, m16, moved, mean, mult, shift = pipe.stage(
            y0=y0, q=(y0 * y0)[16:], mantissa=m16, moved=moved, mean=mean, mult=mult, shift=shift)
        exponent = 23 - 16 + (VARIANCE_BITS - 16) // 2 - moved[1:]              # half of that of v = 40 - moved, for the shift
        y0, t, exponent, mean, mult, shift = pipe.stage(
            y0=y0, t=(m16 * q)[14:], exponent=without(0, exponent), mean=mean, mult=mult, shift=shift)
        newton = Signal(36)
        m.d.comb += newton.eq(y0 * ((C(3 << 16, 18) - t)[:18]))
        y = newton[17:]
        out_shift = Signal(signed(9))
        m.d.comb += out_shift.eq(shift + exponent)
        y, out_shift, mean, mult = pipe.stage(
            y=without(1 << 16, Mux(y[16:] != 0, 0xFFFF, y[:16])), out_shift=out_shift, mean=mean, mult=mult)
        multiplier, clipped, mean = pipe.stage(
            multiplier=(y * mult)[16:16 + MULT], clipped=_clip_shift(m, out_shift, "clipped_shift"), mean=mean)
        m.d.comb += [self.mean.eq(mean), self.multiplier.eq(multiplier), self.out_shift.eq(clipped)]
        return m


class SoftmaxFactor(wiring.Component):
    """Row sum of un-normalised probabilities -> multiplier and shift of the row (numerics.softmax_factor), bit for bit.

    row_sum     32, at least 1;  mult 16, shift 6: of the output scale
    multiplier, out_shift   16 and 6 bits, for requantize; shift 1..47

    Outputs LATENCY cycles after the inputs, one row per cycle, no reset needed. Cost: three products, one table of 256 x 16.
    """

    LATENCY = 7

    def __init__(self):
        super().__init__({"row_sum": In(SUM_BITS), "mult": In(MULT), "shift": In(SHIFT), "multiplier": Out(MULT), "out_shift": Out(SHIFT)})

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m)
        value, mult, shift = pipe.stage(row_sum=self.row_sum, mult=self.mult, shift=self.shift)
        wide, narrow = (16, 8), (4, 2, 1)
        value, flags = _normalise(value, wide)
        value, flags, mult, shift = pipe.stage(value=value, flags=Cat(*flags), mult=mult, shift=shift)
        high = list(flags)
        value, flags = _normalise(value, narrow)
        m16, moved, mult, shift = pipe.stage(mantissa=value[-16:], moved=_moved(wide + narrow, high + flags), mult=mult, shift=shift)
        r0 = _table(m, "recip", numerics.RECIP, m16[7:15])
        m16, moved, mult, shift = pipe.stage(mantissa=m16, moved=moved, mult=mult, shift=shift)
        r0, t, moved, mult, shift = pipe.stage(r0=r0, t=(m16 * r0)[15:], moved=moved, mult=mult, shift=shift)
        newton = Signal(34)
        m.d.comb += newton.eq(r0 * ((C(1 << 17, 18) - t)[:18]))
        r = newton[16:]
        out_shift = Signal(signed(9))           # exponent of the sum = 16 - moved
        m.d.comb += out_shift.eq(shift + (31 - 16 + SUM_BITS - 16) - moved)
        r, out_shift, mult = pipe.stage(r=Mux(r[16:] != 0, 0xFFFF, r[:16]), out_shift=out_shift, mult=mult)
        multiplier, clipped = pipe.stage(multiplier=(r * mult)[16:], clipped=_clip_shift(m, out_shift, "clipped_shift"))
        m.d.comb += [self.multiplier.eq(multiplier), self.out_shift.eq(clipped)]
        return m
