"""`hwgen estimate`: the figures of `compile` for one board or all, without writing, tools or the file's run; and that the cycle model's short
cuts change nothing."""

from __future__ import annotations

import json
from pathlib import Path
import random

import pytest

from hwgen import api
from hwgen.cli import main
from hwgen.engine import EngineConfig
from hwgen.engines.rtl.cycles import DELIVERY, _Stream
from hwgen.errors import CapacityError, TargetError
from hwgen.tools import process

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"


def test_an_estimate_is_what_compile_says(tmp_path, monkeypatch):
    built = api.compile(EXAMPLE / "model.onnx", target="zcu104", calib=EXAMPLE / "calib.npz", out=tmp_path / "b").report()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, **__: pytest.fail("a tool was started"))      # every one starts there
    [one] = api.estimate(EXAMPLE / "model.onnx", "zcu104", calib=EXAMPLE / "calib.npz")
    assert one.error is None and sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    with pytest.raises(pytest.fail.Exception, match="a tool was started"):
        api.check(EXAMPLE / "model.onnx")                               # which runs the file itself
    without = {"onnx", "onnx_cosine", "onnx_max_abs_error", "source"}
    assert {key: value for key, value in built.items() if key not in without} == {key: value for key, value in one.report.items() if key != "source"}


def test_without_images_sizes_and_cycles_are_the_same(tmp_path):
    [with_images], [without] = (api.estimate(EXAMPLE / "model.onnx", "zcu104", calib=calib) for calib in (EXAMPLE / "calib.npz", None))
    for key in ("estimate", "resources", "limits", "array", "all_ports"):
        known = {k: v for k, v in with_images.report[key].items() if k != "accumulator_use"}
        assert known == {k: v for k, v in without.report[key].items() if k != "accumulator_use"}
    assert "output_error" not in without.report["quantization"] and without.report["accuracy"].startswith("unknown")


def test_a_board_that_is_too_small_is_said_beside_the_others(capsys, monkeypatch, tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text((Path(__file__).parent.parent / "boards" / "ulx3s-85f.yaml").read_text().replace("dsp: 156", "dsp: 20"))
    fits, too_small = api.estimate(EXAMPLE / "model.onnx", ["zcu102", small])
    assert fits.error is None and too_small.report is None and isinstance(too_small.error, CapacityError)
    with pytest.raises(CapacityError):
        api.estimate(EXAMPLE / "model.onnx", [small])
    with pytest.raises(SystemExit) as stop:
        main(["estimate", str(EXAMPLE / "model.onnx"), "--targets", f"zcu102,{small}", "--json", str(tmp_path / "e.json")])
    data, text = json.loads((tmp_path / "e.json").read_text()), capsys.readouterr().out
    assert not stop.value.code and "does not fit" in text and "zcu102" in text and "note: estimates; cycles were off" in text
    assert [board["target"] for board in data["boards"]] == ["zcu102", str(small)] and data["boards"][1]["error"]["message"] == too_small.error.message


def test_a_board_that_does_not_exist_and_both_options():
    with pytest.raises(TargetError):
        api.estimate(EXAMPLE / "model.onnx", "zcu104,zcu999")
    with pytest.raises(SystemExit) as stop:
        main(["estimate", str(EXAMPLE / "model.onnx"), "--target", "sim", "--targets", "all"])
    assert stop.value.code == 2


class Plain(_Stream):
    """A vector at a time, as the hardware takes them."""

    def take(self, count, now, cycles=1):
        end = self.flight[-1][1] + DELIVERY if self.flight else 0.0
        for _ in range(count):
            self.needed += self.vector
            while self.read < self.needed:
                end = self._next_burst() + DELIVERY
            now = max(now + cycles, end - (self.read - self.needed) * self.per_byte)
            self.taken.append(now)
        return now


@pytest.mark.parametrize("seed", range(40))
def test_the_stream_by_bursts_is_the_stream_by_vectors(seed):
    choose = random.Random(seed)
    to, load = choose.choice((8, 16, 32, 64)), choose.choice((1, 2))
    config = EngineConfig(64, to, 64, 64, 64, 64, 64, 64, 0, 1, 32 * to, choose.choice((32, 128, 512)), load_columns=load)
    bandwidth, latency = choose.choice((1.3, 4.0, 12.0, 16.0, 42.675, 64.0, 128.0)), choose.choice((0, 20, 200))
    plain, fast = Plain(config, bandwidth, latency), _Stream(config, bandwidth, latency)
    now = [0.0, 0.0]
    for _ in range(60):
        count, cycles, pause = choose.randint(0, 200), choose.choice((1, 2)), choose.choice((0, 0, 3, 500))
        now = [stream.take(count, at + pause, cycles) for stream, at in zip((plain, fast), now, strict=True)]
        assert now[0] == now[1] and plain.taken == fast.taken and (plain.read, plain.needed) == (fast.read, fast.needed)
