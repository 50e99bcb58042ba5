"""Feed lanes: pass, normalise and exp, mixed cycle by cycle."""

import random

import cocotb
import numpy as np

from hwgen import numerics
from hwgen.isa import Half, Src
from hwgen.steps.format import INT8, WIDE
from hwgen.steps.stages.normalize import SHIFTS
from hwgen_sim.bench import config
from hwgen_sim.checker import TimedChecker
from hwgen_sim.endpoints import TimedDriver, run_timeline, start
from hwgen_sim.lanes import pack
from hwgen_sim.stalls import PATTERNS


def lane_values(rng: random.Random, count: int, bits: int) -> np.ndarray:
    limit = (1 << (bits - 1)) - 1
    return np.array([rng.choice([-limit, limit, 0, rng.randint(-limit, limit), rng.randint(-300, 300) % limit]) for _ in range(count)])


def inputs(rng: random.Random, ti: int, shift: int, wide: bool) -> dict:
    """One token's inputs; all of them are driven, whatever the mode."""
    res, row_max = lane_values(rng, ti, 16), rng.choice([32767, -32767, 0, rng.randint(-32767, 32767)])
    # distances of every size: equal to the maximum, within the table, at the edge where the result becomes 0
    code = rng.randrange(len(numerics.SCORE_FRACS))
    one = 1 << numerics.SCORE_FRACS[code]           # an octave
    distance = np.array([rng.choice([0, 1, one - 1, one, 8 * one - 1, 8 * one, 9 * one - 1, 9 * one, 16 * one - 1, 16 * one, 65534, 65533,
                                     rng.randint(0, 10 * one), (1 << rng.randint(8, 15)) + rng.randint(0, one)]) for _ in range(ti)])
    mult = rng.choice([0, 32768, 65535, rng.randint(32768, 65535)])
    mean = rng.choice([0, 16 * 32767, -16 * 32767, 16 * int(res[0]), rng.randint(-(1 << 19), 1 << 19)])
    for lane in range(ti):              # results at the edges of the range: -128 becomes -127
        edge = rng.choice([-32769, -32768, -32767, -129, -128, 127, 128, 32767, 32768, rng.randint(-33000, 33000)] if wide else
                          [-129, -128, -127, -126, -1, 0, 1, 126, 127, 128, rng.randint(-256, 256)])
        near = ((edge << shift - 8 * wide) // max(mult, 1) + mean + rng.randint(-16, 16)) >> 4
        if rng.random() < 0.5 and abs(near) <= 32767:
            res[lane] = near
    return {"act": lane_values(rng, ti, 8), "res": res, "score": np.maximum(row_max - distance, -32768), "row_max": row_max, "code": code,
            "mean": mean, "mult": mult, "shift": shift, "lanes": rng.choice([ti, rng.randint(1, ti)])}


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def matches_numerics(dut, pattern):
    c = config()
    rng, stall = random.Random(5), PATTERNS[pattern](5)
    driver, checker = TimedDriver(dut), TimedChecker()
    for cycle in range(500):
        mode, valid = rng.choice(list(Src)), not next(stall)
        plane = rng.choice(list(Half)) if c.wide else Half.NONE                 # of ACT words it says nothing
        least, most = SHIFTS[INT8 if plane == Half.NONE else WIDE]
        v = inputs(rng, c.ti, least + cycle % (most + 1 - least), plane != Half.NONE)
        frac = numerics.SCORE_FRACS[v["code"]]
        none = bool(c.list_words) and mode != Src.EXP and rng.random() < 0.2             # all zeros
        half = 1 << max(0, frac - numerics.EXP_FRAC) >> 1           # of a unit of the table
        driver.at(cycle, valid=int(valid), mode=int(mode), plane=int(plane), act=pack(v["act"], 8), res=pack(v["res"], 16),
                  score=pack(v["score"], 16), mean=v["mean"] & 0x1FFFFF, mult=v["mult"], shift=v["shift"],
                  top=v["row_max"] + half & 0x1FFFF, frac=v["code"], lanes=v["lanes"], none=int(none))
        if not valid:
            continue
        match mode:
            case Src.ACT:
                a = np.full(c.ti, -numerics.LOW_OFFSET * (plane == Half.LOW)) if none else v["act"]
            case Src.NORM | Src.RES:
                normalize = numerics.normalize if plane == Half.NONE else numerics.normalize_wide
                a = normalize(v["res"], v["mean"], v["mult"], v["shift"]) * (not none)
                past = a                        # of 16 bits all of them go past the array
                a = a if plane == Half.NONE else numerics.planes(a)[plane == Half.LOW]
            case Src.EXP:
                p = np.where(np.arange(c.ti) < v["lanes"], numerics.exp2_p8(v["row_max"] - v["score"], frac), 0)
                checker.expect(cycle + 5, str(v), psum=int(p.sum()))
                a = p - 128
        b = past if mode in (Src.NORM, Src.RES) and plane == Half.LOW else a
        checker.expect(cycle + 3, f"({mode.name} {plane.name}) {v}", a=pack(a, 8), **({"b": pack(b, 16)} if c.bypass else {}))
    await start(dut)
    await run_timeline(dut, driver, checker)
