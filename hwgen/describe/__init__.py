"""``hwgen describe``: a build in words, at three grains, each description beside the text it describes.

Nothing is written here twice: functions, ports, timing and cost come from the comments and docstrings of the sources that the engine is made
of, sizes, names, connections and code from the files of the build, steps and figures from its network and its report. After MG-Verilog and
GPT4AIGChip, which found that such pairs help language models to write hardware.
"""

from __future__ import annotations

from itertools import chain

from ..build import Build
from ..choices import Grain
from . import cpp, network, rtl
from .entry import Description, Entry
from .hardware import Hardware
from .verilog import identifiers


def describe(build: Build, grain: Grain) -> Description:
    """A build at one grain. Raises BuildVersionError for a file that is no longer what hwgen wrote."""
    sources = _texts(build, build.rtl)
    project = _texts(
        build,
        tuple(name for name in build.below("hls") if name.endswith((".hpp", ".cpp")) and not name.startswith(("hls/csim", "hls/driver"))),
    )
    known = frozenset(network.names(build) | {*sources, *project} | set().union(*map(identifiers, (*sources.values(), *project.values()))))
    return Description(str(build.path), grain, tuple(_entries(build, grain, sources, project, known)), known)


def _entries(build: Build, grain: Grain, sources: dict[str, str], project: dict[str, str], known: frozenset[str]) -> chain[Entry]:
    if grain is Grain.SUMMARY:
        return chain(network.summary(build))
    hardware = Hardware(sources, known)
    if grain is Grain.BLOCK:
        return chain(rtl.blocks(hardware, known), cpp.blocks(project, known), network.steps(build, known), cpp.rows(project, known))
    return chain(rtl.signals(hardware), cpp.signals(project, known))


def _texts(build: Build, names: tuple[str, ...]) -> dict[str, str]:
    return {name: data.decode(errors="replace") for name, data in build.read(names).items()}


__all__ = ["Description", "Entry", "describe"]
