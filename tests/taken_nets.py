"""Networks in which products take their tokens by an order: random ones, out of any network of steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.steps.format import INT8
from hwgen.steps.param import Param
from hwgen.steps.stages import Exp2, Stationary
from hwgen.steps.step import Network, Quantized, Step
from hwgen.steps.taken import NOTHING, Taken
from hwgen.steps.tensor import Memory

GROUPED, GROUP = 0.4, 16          # how many see in each column a group of so many channels only


def taking(quantized: Quantized, seed: int = 0, share: float = 0.7, most: int = 3) -> Quantized:
    """About ``share`` of the products with weights of 8 bits, that are no experts' and do not route, get an order of 1 to ``most`` taps: source
    tokens at random, again and again, and zeros; some see only a group of channels in each column. Their weights have the rows for it. Two tasks
    get the same where they were the same."""
    made: dict[str, Taken | None] = {}
    return replace(quantized, tasks=tuple(replace(network, steps=tuple(_step(step, seed, share, most, made) for step in network.steps))
                                          for network in quantized.tasks))


def _step(step: Step, seed: int, share: float, most: int, made: dict[str, Taken | None]) -> Step:
    tile = step.tile
    if step.taken is not None or not isinstance(tile, Stationary) or tile.format != INT8 or step.expert is not None or step.routes or step.picks or isinstance(step.feed, Exp2) or len(step.sinks) > 1:
        return step
    label = f"{seed} {tile.weight.name} {step.tokens} {step.source.tensor.memory}"
    rng = np.random.default_rng(list(label.encode()))
    grouped = rng.random() < GROUPED
    if label not in made:
        taps, tokens = int(rng.integers(1, most + 1)), step.tokens
        order = rng.integers(0, tokens, (taps, tokens)).astype(np.int32)
        order[rng.random(order.shape) < 0.2] = NOTHING
        order[-1, -1] = NOTHING
        made[label] = Taken(Param(f"{tile.weight.name}.order{len(made)}", order)) if rng.random() < share else None
    taken = made[label]
    if taken is None:
        return step
    weight = np.concatenate([np.roll(tile.weight.array, tap, axis=0) for tap in range(taken.taps)])
    if grouped:
        channel = np.tile(np.arange(len(tile.weight.array)), taken.taps) // GROUP
        weight[channel[:, None] != np.arange(step.columns) // GROUP] = 0
    return replace(step, taken=taken, macs=step.macs * taken.taps, tile=replace(tile, weight=Param(f"{tile.weight.name} x{taken.taps}", weight)))


def orders(network: Network) -> list[Taken]:
    """Of all steps that take tokens by one."""
    return [step.taken for step in network.steps if step.taken is not None]


def in_residual(network: Network) -> bool:
    """Whether a step takes tokens of a residual stream, once norms are in the feeds."""
    return any(step.taken is not None and step.source.tensor.memory is Memory.RES for step in network.steps)
