"""PE array (plain and packed): tiles loaded by column and by row while the one before is at work, tokens in every cycle."""

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


def plan_load(driver, c, cycle, tile, by_row, wide, order, pauses) -> int:
    """Write ``tile`` [ti, to] from ``cycle`` on, by ``wide`` several columns at a time; returns the first cycle after it."""
    per_load = c.load_columns if wide else 1
    for n, index in enumerate(order):
        while next(pauses):
            driver.at(cycle, load_en=0, load_clear=0)
            cycle += 1
        lanes = tile[index] if by_row else tile[:, index * per_load:(index + 1) * per_load].T.ravel()
        lanes = np.concatenate([lanes, np.full(c.vector_bytes - len(lanes), JUNK)])
        driver.at(cycle, load_en=1, load_clear=int(n == 0), load_wide=int(wide), load_row=int(by_row), load_done=int(n == len(order) - 1),
                  load_index=int(index) * per_load, load_data=pack(lanes, 8))
        cycle += 1
    driver.at(cycle, load_en=0, load_clear=0, load_done=0)
    return cycle


async def stream_tiles(dut, pattern: str, num_tiles: int) -> None:
    """Tile n is loaded as soon as n - 1 has gone to work, while its tokens stream; now and then all is forgotten on the way."""
    c, seed = config(), 7
    rng, pauses = np.random.default_rng(seed), PATTERNS[pattern](seed)
    driver, checker = TimedDriver(dut), TimedChecker()
    free = loaded = streamed = 0                # first cycle in which a tile may be written, after the last load, after the last token
    worked = 0                                  # when the column correction of the last token is over

    def load() -> tuple[np.ndarray, bool]:
        nonlocal loaded
        by_row = bool(rng.integers(2))
        tile = weights(rng, (c.ti, c.to))
        wide = not by_row and bool(rng.integers(2))
        order = rng.permutation(c.ti if by_row else c.to // c.load_columns if wide else c.to)
        loaded = plan_load(driver, c, max(loaded, free), tile, by_row, wide, order, pauses)
        return tile, by_row

    for n in range(num_tiles):
        if n % 5 == 4:                          # a loaded tile that waits, perhaps taken by some of the rows
            load()
            forgotten = max(loaded, streamed + int(rng.integers(0, 2 * c.segment)))
            driver.at(forgotten, clear=1)
            driver.at(forgotten + 1, clear=0)
            free = streamed = forgotten + c.segment + 1
            worked = 0
        tile, by_row = load()
        taken = max(loaded, worked)
        for cycle in range(max(free, taken - 2), taken + 3):
            checker.expect(cycle, f"(tile {n})", taken=int(cycle == taken))
        free = taken + 1
        streamed = max(streamed, loaded + 1)
        num_tokens = int(rng.integers(1, 12))
        for m in range(num_tokens):
            a = tokens(rng, c.ti)
            want = a @ tile + (128 * tile.sum(0) if by_row else 0)
            driver.at(streamed, a=pack(a, 8), last=int(m == num_tokens - 1))
            checker.expect(streamed + c.segment + 1, f"(tile {n}, {'rows' if by_row else 'columns'})", sum=pack(want, 32))
            streamed += 1
        driver.at(streamed, last=0)
        worked = streamed - 1 + c.segment
    await start(dut)
    await run_timeline(dut, driver, checker)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def matches_matrix_product(dut, pattern):
    await stream_tiles(dut, pattern, 14)
