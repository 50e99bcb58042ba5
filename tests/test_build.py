"""Build directories: what is written is what is loaded; every kind of damage is one message."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from hwgen import build as builds
from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import BuildVersionError, HwgenError, InputError, OutputError
from hwgen.isa import Instr
from hwgen.steps import golden
import native_builds
from native_builds import bench_source
from qgraphs import random_images, random_model, random_qgraph

OPTIONS = {"seed": 3, "blocks": "dm", "classes": (4, 9)}
ENGINE = {"ti": 16, "to": 8, "axi_data_bits": 128}


@pytest.fixture(scope="module", params=[1, 2], ids=["one image a frame", "batch of two"])
def written(request, tmp_path_factory):
    model = random_qgraph(**OPTIONS)
    program = schedule(model, **ENGINE, batch=request.param)
    return model, program, native_builds.write(tmp_path_factory.mktemp("build") / "b", model, program)


def test_what_is_written_is_loaded(written):
    model, program, build = written
    assert build.program == program                              # configuration, instructions with notes, memory map, image, outputs
    assert (build.inputs, build.target, build.clock_mhz, build.bytes_per_cycle, build.report) == ({"x": (1, 2, 16)}, "sim", 300.0, 64.0, {})
    images = random_images(random_model(**OPTIONS), 3)
    for ours, theirs in zip(model.tasks, build.model.tasks, strict=True):
        wanted, found = golden.run(ours, images), golden.run(theirs, images)
        assert wanted.keys() == found.keys() and all((wanted[name] == found[name]).all() for name in wanted)
    assert build.program.frames(build.model.tasks[0], images[:2]) == program.frames(model.tasks[0], images[:2])


def test_the_files_are_what_they_say(written):
    _, program, build = written
    names = {path.relative_to(build.path).as_posix() for path in build.path.rglob("*") if path.is_file()}
    assert {"manifest.json", "program.bin", "program.txt", "weights.bin", "model.npz", "report.json", "bench/main.cpp", "driver/hwgen.h",
            "driver/registers.h", "rtl/filelist.f"} <= names
    for name in (build.path / "rtl" / "filelist.f").read_text().split():
        assert f"rtl/{name}" in names
    binary = (build.path / "program.bin").read_bytes()
    decoded = [Instr.decode(int.from_bytes(binary[i:i + 64], "little"), instr.note)
               for i, instr in zip(range(0, len(binary), 64), program.instrs, strict=True)]
    assert decoded == list(program.instrs)
    lines = (build.path / "program.txt").read_text().splitlines()
    assert len(lines) == len(program.instrs) and lines[-1].split() == [str(len(lines) - 1), "end"]
    header = (build.path / "driver" / "hwgen.h").read_text()
    assert f"#define HWGEN_OUTPUT_BYTES {program.output_bytes}u" in header and f"#define HWGEN_WEIGHT_BYTES {len(program.image)}u" in header


@pytest.mark.parametrize("name", ["program.bin", "weights.bin", "model.npz", "report.json", "rtl/filelist.f", "driver/hwgen.h"])
@pytest.mark.parametrize("change", ["missing", "truncated", "one bit"])
def test_a_damaged_file_is_named(written, name, change):
    build = written[2]
    path = build.path / name
    data = path.read_bytes()
    try:
        match change:
            case "missing":
                path.unlink()
            case "truncated":
                path.write_bytes(data[:-1])
            case "one bit":
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BuildVersionError) as caught:
            builds.load(build.path)
        assert name in str(caught.value) and "compile" in caught.value.hint
    finally:
        path.write_bytes(data)
    assert builds.load(build.path).program == written[1]


@pytest.mark.parametrize("key, value, text", [
    ("version", "0.0.1", "0.0.1"), ("format", ..., "has the format 1, this one reads 3"), ("format", 2, "has the format 2"),
    ("format", [2], "has the format list"), ("program", None, "damaged"), ("engine", {"ti": 8}, "damaged"), ("inputs", None, "damaged"),
    ("target", ..., "damaged")])
def test_a_manifest_that_was_changed(written, key, value, text):
    path = written[2].path / "manifest.json"
    kept = path.read_text()
    manifest = json.loads(kept)
    if value is ...:
        del manifest[key]
    else:
        manifest[key] = value
    try:
        path.write_text(json.dumps(manifest))
        with pytest.raises(BuildVersionError, match=text) as caught:
            builds.load(path.parent)
        assert "compile" in caught.value.hint
    finally:
        path.write_text(kept)


def test_what_is_no_build(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(HwgenError) as caught:
            builds.load(path)
        assert isinstance(caught.value, (InputError, BuildVersionError)) and str(path) in str(caught.value)


def test_a_failing_write_leaves_nothing(written, tmp_path):
    model, program, _ = written
    facts = {"inputs": {"x": (1, 2, 16)}, "target": "sim", "clock_mhz": 300.0, "bytes_per_cycle": 64.0}
    with pytest.raises(ValueError, match="'../outside' is not the name of a file inside the build directory"):
        builds.write(tmp_path / "b", {"rtl/a.sv": "text", "../outside": "text"}, model, program, {}, **facts)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        builds.write(tmp_path / "file" / "b", {}, model, program, {}, **facts)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_equal_build_is_equal_byte_for_byte(written, tmp_path):
    model, program, build = written
    again = native_builds.write(tmp_path / "again", model, program)
    for name in ("program.bin", "weights.bin", "model.npz", "driver/hwgen.h", "rtl/filelist.f"):
        assert (again.path / name).read_bytes() == (build.path / name).read_bytes(), name
    np.testing.assert_array_equal(np.frombuffer(again.program.image, np.uint8), np.frombuffer(program.image, np.uint8))


def test_the_bench_by_hand_has_the_memory_of_simulate():
    """Latency, stalls and their seed; the bandwidth is the board's, which the bench does not know."""
    found = dict(re.findall(r'\{"([a-z-]+)", "(\d+)"\}', bench_source()["bench/main.cpp"]))
    assert {name: float(found[name]) for name in ("latency", "stall", "seed")} == {
        name: getattr(MemoryModel(), name) for name in ("latency", "stall", "seed")}
