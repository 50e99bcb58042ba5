"""PE array (plain and packed): tiles loaded by column and by row while other banks are in use, tokens in every cycle."""

import random

import cocotb
import numpy as np

from hwgen_sim.bench import config
from hwgen_sim.checker import TimedChecker
from hwgen_sim.endpoints import TimedDriver, run_timeline, start
from hwgen_sim.lanes import pack
from hwgen_sim.stalls import PATTERNS

JUNK = 0x5A


def weights(rng: np.random.Generator, shape) -> np.ndarray:
    """int8 within +-127: extremes, or anything."""
    return rng.choice([-127, 127], shape) if rng.random() < 0.3 else rng.integers(-127, 128, shape)


def tokens(rng: np.random.Generator, ti: int) -> np.ndarray:
    """int8, -128 included (the feed streams p - 128)."""
    return rng.choice([-128, 127], ti) if rng.random() < 0.3 else rng.integers(-128, 128, ti)


def plan_load(driver, c, cycle, bank, tile, by_row, wide, order, pauses) -> int:
    """Write ``tile`` [ti, to] into a bank from ``cycle`` on, by ``wide`` several columns at a time; returns the first cycle after it."""
    per_load = c.load_columns if wide else 1
    for n, index in enumerate(order):
        while next(pauses):
            driver.at(cycle, load_en=0, load_clear=0)
            cycle += 1
        lanes = tile[index] if by_row else tile[:, index * per_load:(index + 1) * per_load].T.ravel()
        lanes = np.concatenate([lanes, np.full(c.vector_bytes - len(lanes), JUNK)])
        driver.at(cycle, load_en=1, load_clear=int(n == 0), load_wide=int(wide), load_row=int(by_row), load_bank=bank,
                  load_index=int(index) * per_load, load_data=pack(lanes, 8))
        cycle += 1
    driver.at(cycle, load_en=0, load_clear=0)
    return cycle


async def stream_tiles(dut, pattern: str, num_tiles: int) -> None:
    """Tile n goes to bank n % banks as soon as its last token has left; tokens of tile n - 1 stream meanwhile."""
    c, seed = config(), 7
    rng, pauses = np.random.default_rng(seed), PATTERNS[pattern](seed)
    driver, checker = TimedDriver(dut), TimedChecker()
    free = [0] * c.banks                        # first cycle in which a bank may be written
    loaded, streamed = 0, 0                     # first cycle after the last load and after the last token
    for n in range(num_tiles):
        bank, by_row = n % c.banks, bool(rng.integers(2))
        tile = weights(rng, (c.ti, c.to))
        wide = not by_row and bool(rng.integers(2))
        order = rng.permutation(c.ti if by_row else c.to // c.load_columns if wide else c.to)
        loaded = plan_load(driver, c, max(loaded, free[bank]), bank, tile, by_row, wide, order, pauses)
        streamed = max(streamed, loaded)
        for _ in range(int(rng.integers(1, 12))):
            a = tokens(rng, c.ti)
            want = a @ tile + (128 * tile.sum(0) if by_row else 0)
            driver.at(streamed, a=pack(a, 8), bank=bank)
            checker.expect(streamed + c.segment + 1, f"(tile {n}, {'rows' if by_row else 'columns'})", sum=pack(want, 32))
            streamed += 1
        free[bank] = streamed + c.segment       # the last sum is taken in cycle streamed - 1 + SEG + 1
    await start(dut)
    await run_timeline(dut, driver, checker)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def matches_matrix_product(dut, pattern):
    await stream_tiles(dut, pattern, 14)
