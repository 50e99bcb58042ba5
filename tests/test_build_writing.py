"""What `simulate` writes into a build directory from a stranger: nothing goes through a link, a pipe or a device."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hwgen.build import Build
from hwgen.build.directory import SPENT
from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl import bench as rtl_bench
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import OutputError
from hwgen.run import simulate
import native_builds
from qgraphs import random_qgraph
from test_build_attacks import OPTIONS, limited


@pytest.fixture
def build(tmp_path) -> Build:
    model = random_qgraph(**OPTIONS)
    return native_builds.write(tmp_path / "b", model, schedule(model, ti=16, to=8, axi_data_bits=128))


OTHERS = {
    "a link": lambda place, victim: place.symlink_to(victim), "a hard link": lambda place, victim: place.hardlink_to(victim),
    "a link to nothing": lambda place, victim: place.symlink_to("/dev/null/nothing"),
    "a link to itself": lambda place, victim: place.symlink_to(place),
    "a FIFO": lambda place, victim: os.mkfifo(place), "a link to a device": lambda place, victim: place.symlink_to("/dev/full")}


@pytest.mark.parametrize("what", OTHERS)
def test_nothing_is_written_through_a_build(build, tmp_path, monkeypatch, what):
    """`simulate` writes two files into a build; what has their names already is replaced, and what that leads to stays as it is."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("simulation.json", "waves.fst"):
        OTHERS[what](build.path / name, victim)
    simulation = {"simulation": {"cycles_per_image": 9, "images": 1, "memory": {}}, "stalls": dict.fromkeys(SPENT, 0), "layers": [], "timeline": []}
    limited(lambda _: build.keep(simulation), build.path)
    made = rtl_bench.Run([{output.name: np.zeros(10, np.int32) for output in build.model.tasks[0].outputs}], 1, 0.0, None, np.zeros(0, rtl_bench.EVENT))
    monkeypatch.setattr(rtl_bench, "build_bench", lambda files, trace: Path("bench"))
    monkeypatch.setattr(rtl_bench, "run_bench", lambda *args, waves, **options: waves.write_text("waves") and made)
    images = np.zeros((1, *next(iter(build.inputs.values()))), np.float32)
    limited(lambda _: simulate.run_rtl(build, images, [0], MemoryModel(), lambda *a: None, waves=build.path / "waves.fst"), build.path)
    assert build.kept() == (simulation, None) and (build.path / "waves.fst").read_text() == "waves" and victim.read_text() == "mine"
    assert not any((build.path / name).is_symlink() for name in ("simulation.json", "waves.fst"))


def test_a_folder_in_the_way_is_one_message(build):
    (build.path / "simulation.json").mkdir()
    with pytest.raises(OutputError, match="simulation.json of the build cannot be replaced: Is a directory") as caught:
        build.keep({})
    assert caught.value.hint and caught.value.where == str(build.path / "simulation.json")
