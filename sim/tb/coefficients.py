"""NormCoefficients and SoftmaxFactor against numerics, new inputs in every cycle."""

import random

import cocotb
import numpy as np

from hwgen import numerics
from hwgen_rtl.coefficients import MEAN_BITS, NormCoefficients, SoftmaxFactor
from hwgen_sim.checker import TimedChecker
from hwgen_sim.endpoints import TimedDriver, run_timeline, start

MASK32 = (1 << 32) - 1


def norm_inputs(rng: random.Random) -> dict[str, int]:
    """Statistics of a possible token: constant, alternating or random channels, amplitudes up to the limit."""
    dim = rng.choice([1, 2, 192, 384, 768, 4095, rng.randint(1, 4095)])
    amplitude = rng.choice([0, 1, 3, 200, 32767])
    match rng.randrange(3):
        case 0: x = np.full(dim, amplitude * rng.choice([1, -1]))
        case 1: x = np.where(np.arange(dim) % 2, amplitude, -amplitude)
        case _: x = np.random.default_rng(rng.getrandbits(32)).integers(-amplitude, amplitude + 1, dim)
    inv_mult, inv_shift = numerics.quantize_multiplier(16 / dim)
    return {"total": int(x.sum()), "squares": int((x.astype(np.int64) ** 2).sum()), "dim": dim,
            "eps": rng.choice([1, 2, (1 << 48) - 1, rng.getrandbits(rng.randint(1, 48)) | 1]), "inv_mult": inv_mult, "inv_shift": inv_shift,
            "mult": rng.choice([1, 65535, rng.randint(0, 65535)]), "shift": rng.choice([1, 47, rng.randint(0, 63)])}


def factor_inputs(rng: random.Random) -> dict[str, int]:
    bits = rng.randint(1, 32)
    return {"row_sum": rng.choice([1, (1 << bits) - 1, 1 << (bits - 1), rng.getrandbits(bits) | 1]),
            "mult": rng.choice([1, 65535, rng.randint(0, 65535)]), "shift": rng.choice([1, 47, rng.randint(0, 63)])}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def matches_numerics(dut):
    rng, driver, checker = random.Random(1), TimedDriver(dut), TimedChecker()
    norm = hasattr(dut, "squares")
    await start(dut)
    for cycle in range(800):
        if norm:
            values, raw = norm_inputs(rng), hasattr(dut, "raw") and rng.random() < 0.5
            rms = hasattr(dut, "centred") and rng.random() < 0.5
            mean, multiplier, shift = map(int, numerics.norm_coefficients(**values | ({"total": 0} if rms else {})))
            if raw:
                mean, multiplier, shift = 0, values["mult"], min(max(values["shift"], 1), numerics.MAX_SHIFT)
            checker.expect(cycle + NormCoefficients.LATENCY, str(values), mean=mean & (1 << MEAN_BITS) - 1, multiplier=multiplier, out_shift=shift)
            driver.at(cycle, **(values | {"total": values["total"] & MASK32} | ({"raw": int(raw)} if hasattr(dut, "raw") else {})
                               | ({"centred": int(not rms)} if hasattr(dut, "centred") else {})))
        else:
            values = factor_inputs(rng)
            multiplier, shift = map(int, numerics.softmax_factor(**values))
            checker.expect(cycle + SoftmaxFactor.LATENCY, str(values), multiplier=multiplier, out_shift=shift)
            driver.at(cycle, **values)
    await run_timeline(dut, driver, checker)
