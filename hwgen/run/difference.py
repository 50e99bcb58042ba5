"""Finds the first value at which C simulation, RTL simulation and the integer model part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..build import Build
from ..devices.memory import MemoryModel
from ..steps import golden
from ..steps.passes.lengths import shortened
from ..steps.step import Network
from .simulate import checked_lengths, run_hls, run_rtl

NEAR = 3                # neighbours shown on either side


@dataclass(frozen=True)
class Difference:
    """level: "csim" or "rtl"; value: of the integer network, [tokens, channels], made by ``node``; index: the first that differs.

    near: (index, expected, found) along the last dimension; count: differing words of this value.
    """

    level: str
    task: int
    image: int
    node: str
    value: str
    index: tuple[int, ...]
    expected: int
    found: int
    count: int
    size: int
    near: tuple[tuple[tuple[int, ...], int, int], ...]

    def __str__(self) -> str:
        """A few lines for people."""
        lines = [(f"{self.level} leaves the integer model at node {self.node!r}, value {self.value!r} (task {self.task}, "
                  f"image {self.image}): {self.count:,} of {self.size:,} words differ"),
                 f"  first at {list(self.index)}: {self.found}, the integer model has {self.expected}"]
        for index, expected, found in self.near:
            lines.append(f"    {list(index)}  {found:>7}  {expected:>7}{'' if expected == found else '  <'}")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """JSON-able."""
        return asdict(self)


def compare(network: Network, expected: dict[str, np.ndarray], found: dict[str, np.ndarray], *, level: str, task: int,
            image: int) -> Difference | None:
    """The first value, in the order of the network, of which ``found`` has another content.

    Values that ``found`` does not have are passed over; a router's logits count before the value they lead to.
    """
    nodes = {step.value: step.node for step in network.steps}
    for name, node in nodes.items():
        for suffix in (".logits", ""):
            value = name + suffix
            other = found.get(value)
            if other is None or value not in expected:
                continue
            wrong = np.argwhere(other != expected[value])
            if len(wrong):
                return _difference(node, value, expected[value], other, wrong, level, task, image)
    return None


def _difference(node, value, expected, found, wrong, level, task, image) -> Difference:
    index = tuple(int(i) for i in wrong[0])
    *row, last = index
    near = tuple(((*row, c), int(expected[(*row, c)]), int(found[(*row, c)]))
                 for c in range(max(0, last - NEAR), min(expected.shape[-1], last + NEAR + 1)))
    return Difference(level, task, image, node, value, index, int(expected[index]), int(found[index]), len(wrong),
                      expected.size, near)


def search(build: Build, images: np.ndarray, progress=None, lengths: Sequence[int] = ()) -> list[Difference]:
    """See `api.Accelerator.first_differences`."""
    say = progress or (lambda stage, done=0, total=0: None)
    tasks = list(range(len(build.model.tasks)))
    lengths = checked_lengths(build, len(images), lengths)
    result: list[Difference] = []
    traces: list[dict[str, np.ndarray]] = []
    if build.has_hls:
        traces = run_hls(build, images, tasks, say, trace=True, lengths=lengths).runs[0].traces
    hardware = run_rtl(build, images, tasks, MemoryModel(), say, lengths=lengths).outputs if build.has_rtl else {}
    for task in tasks:
        network = build.model.tasks[task]
        pending = {level for level, there in (("csim", traces), ("rtl", hardware)) if there}
        for image in range(len(images)):
            some = images[image:image + 1]
            short, some = (shortened(network, lengths[image]), some[:, :lengths[image]]) if lengths else (network, some)
            expected = {name: value[0] for name, value in golden.trace(short, some, detail=True).items()}
            for level in sorted(pending):
                if level == "csim":
                    found = traces[image * len(tasks) + task]
                else:
                    found = {output.name: hardware[task][output.name][image] for output in network.outputs}
                found |= {output.name: found[output.name][:expected[output.name].size] for output in short.outputs}
                difference = compare(network, expected, found, level=level, task=task, image=image)
                if difference is not None:
                    result.append(difference)
                    pending.remove(level)
    return result
