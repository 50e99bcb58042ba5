"""Boards: every bundled file reads, its numbers are what the documents say, and every mistake in a file is named."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
import json

import pytest
import yaml

from hwgen import paths
from hwgen.devices.board import Board, boards, load_board
from hwgen.devices.family import families
from hwgen.engine import EngineConfig
from hwgen.errors import TargetError, ToolError

NAMES = ["de10-nano", "kv260", "pynq-z2", "sim", "ulx3s-85f", "zcu102", "zcu104", "zedboard"]
CHIPS = {       # LUT, FF, DSP, BRAM36, URAM
    "zcu102": (274_080, 548_160, 2_520, 912, 0),
    "zcu104": (230_400, 460_800, 1_728, 312, 96),
    "kv260": (117_120, 234_240, 1_248, 144, 64),
    "ulx3s-85f": (83_640, 83_640, 156, 104, 0),
    "pynq-z2": (53_200, 106_400, 220, 140, 0),
    "zedboard": (53_200, 106_400, 220, 140, 0),
    "de10-nano": (41_910, 4 * 41_910, 2 * 112, 553 * 10 // 36, 0),
    "sim": (10**9,) * 5,
}


@pytest.fixture(scope="module")
def pattern() -> dict:
    """The content of a good board file."""
    return yaml.safe_load((paths.data_dir("boards") / "zcu104.yaml").read_text())


def board_file(tmp_path, data):
    path = tmp_path / "mine.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_names():
    assert [board.name for board in boards()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_chip(name):
    board, file = load_board(name), paths.data_dir("boards") / f"{name}.yaml"
    assert board.name == name
    assert (board.lut, board.ff, board.dsp, board.bram36, board.uram) == CHIPS[name]
    assert board == load_board(file) == load_board(str(file))


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name):
    board = load_board(name)
    wanted = {"resources", "memory", "efficiency", "ports", "clock_mhz", "arrays"}
    if name != "sim":
        wanted |= {"part", "axi_data_bits"}
    assert wanted <= board.sources.keys()
    assert all(len(text) > 20 for text in board.sources.values())


@pytest.mark.parametrize("name, transfers_mt_s, bits", [
    ("zcu102", 33.333 * 64 / 2 * 2, 64), ("zcu104", 33.333 * 64 / 2 * 2, 64), ("kv260", 2400, 64), ("ulx3s-85f", 166.6, 16),
    ("pynq-z2", 1050, 16), ("zedboard", 1066, 32), ("de10-nano", 800, 32)])
def test_memory_bandwidth_follows_from_its_derivation(name, transfers_mt_s, bits):
    assert load_board(name).memory_gb_s == pytest.approx(transfers_mt_s * bits / 8 / 1000, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_array_makes_an_engine(name):
    board = load_board(name)
    for ti, to in board.arrays:
        bits = board.axi_bits(to)
        config = EngineConfig(ti=ti, to=to, max_tokens=64, act_words=64, kv_words=64, score_words=64, res_words=64,
                              program_words=64, max_experts=0, max_top_k=0, axi_data_bits=bits, fifo_beats=64, packed=board.packed)
        assert config.macs_per_cycle == ti * to
        assert bits == board.axi_data_bits or 32 * to % (2 * bits) != 0


def test_bytes_per_cycle():
    """One port of 128 bits at 300 MHz on a Zynq, whatever the engine's clock; all four where that is asked for."""
    for name, sustained in (("zcu102", 17.07e9 * 0.75), ("zcu104", 17.07e9 * 0.75), ("kv260", 19.2e9 * 0.84)):
        board = load_board(name)
        assert (board.bytes_per_cycle(), board.bytes_per_cycle(150), board.ports.number) == (16, 32, 4)
        assert board.bytes_per_cycle(ports=4) == pytest.approx(sustained / 300e6)
        assert board.bytes_per_cycle(150, ports=4) == 64, "a beat of the engine's master is the limit"
    assert load_board("sim").bytes_per_cycle() == 64
    assert [load_board(name).bytes_per_cycle() for name in ("pynq-z2", "zedboard", "de10-nano")] == [8, 8, 32]
    ulx3s = load_board("ulx3s-85f")
    assert ulx3s.bytes_per_cycle() == ulx3s.bytes_per_cycle(ports=1) == pytest.approx(3.774, abs=1e-3), "the memory is the limit"


def test_axi_bits():
    sim = load_board("sim")
    assert [sim.axi_bits(to) for to in (8, 16, 32, 48, 64)] == [256, 512, 512, 512, 512]


def test_board_is_plain_data_for_json():
    data = json.loads(json.dumps([board.to_dict() for board in boards()]))
    assert all(list(board) == [f.name for f in fields(Board)] for board in data)
    assert data[NAMES.index("zcu102")]["family"] == "zynq-ultrascale+"
    assert data[NAMES.index("zcu102")]["arrays"][0] == [64, 64]


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        load_board("sim").lut = 3


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("name, near", [("zcu140", "zcu104"), ("ZCU102", "zcu102"), ("ulx3s", "ulx3s-85f"), ("kv26", "kv260"),
                                        ("pynq", "pynq-z2"), ("zed", "zedboard")])
def test_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(TargetError) as info:
        load_board(name)
    assert info.value.message == f"unknown target {name!r}, did you mean {near!r}?"
    assert info.value.hint == "known: de10-nano, kv260, pynq-z2, sim, ulx3s-85f, zcu102, zcu104, zedboard; or give a path to a .yaml file"


def test_unknown_name_with_nothing_near():
    with pytest.raises(TargetError) as info:
        load_board("xyz")
    assert info.value.message == "unknown target 'xyz'"
    assert "zcu104" in info.value.hint


def test_own_file(tmp_path, pattern):
    ports = {"number": 2, "bits": 64, "clock_mhz": 150}
    board = load_board(board_file(tmp_path, pattern | {"name": "mine", "dsp": 900, "ports": ports}))
    assert (board.name, board.dsp, board.ports.gb_s, board.bytes_per_cycle(), board.bytes_per_cycle(ports=2)) == ("mine", 900, 1.2, 4, 8)
    assert board.family == load_board("zcu104").family and isinstance(board, Board)


def refused(path) -> TargetError:
    with pytest.raises(TargetError) as info:
        load_board(path)
    assert "mine.yaml" in info.value.message and info.value.where == str(path)
    return info.value


@pytest.mark.parametrize("change, message, hint", [
    ({"dsp": "many"}, "key 'dsp' is 'many'", "expected a whole number, 0 or more"),
    ({"dsp": -1}, "key 'dsp' is -1", "expected a whole number"),
    ({"dsp": True}, "key 'dsp' is True", "expected a whole number"),
    ({"dsp": None}, "key 'dsp' is None", "expected a whole number"),
    ({"dsp": 1.5}, "key 'dsp' is 1.5", "expected a whole number"),
    ({"clock_mhz": 0}, "key 'clock_mhz' is 0", "expected a number above 0"),
    ({"clock_mhz": float("inf")}, "key 'clock_mhz' is inf", "expected a number above 0"),
    ({"clock_mhz": None}, "key 'clock_mhz' is None", "expected a number above 0"),
    ({"memory_efficiency": 1.1}, "key 'memory_efficiency' is 1.1", "at most 1"),
    ({"ports": 4}, "key 'ports' is 4", "expected a map of number, bits and clock_mhz"),
    ({"ports": {"number": 4, "bits": 128}}, "key 'ports.clock_mhz' is missing", "expected a number above 0"),
    ({"ports": {"number": 4, "bits": 128, "clock": 3, "clock_mhz": 300}}, "key 'ports.clock' is unknown", "did you mean 'clock_mhz'?"),
    ({"ports": {"number": "4", "bits": 128, "clock_mhz": 300}}, "key 'ports.number' is '4'", "expected a whole number"),
    ({"ports": {"number": 0, "bits": 128, "clock_mhz": 300}}, "key 'ports.number' is 0", "1 or more"),
    ({"ports": {"number": 1, "bits": 4, "clock_mhz": 300}}, "key 'ports.bits' is 4", "8 or more"),
    ({"ports": {"number": 4, "bits": 128, "clock_mhz": 0}}, "key 'ports.clock_mhz' is 0", "expected a number above 0"),
    ({"part": 7}, "key 'part' is 7", "expected text"),
    ({"packed": "yes"}, "key 'packed' is 'yes'", "expected true or false"),
    ({"family": "ecp7"}, "key 'family' is 'ecp7'", f"expected one of {', '.join(families())}; or a .yaml file beside"),
    ({"family": 7}, "key 'family' is 7", "expected one of"),
    ({"sources": {"part": 3}}, "key 'sources' is {'part': 3}", "expected a map of texts"),
    ({"arrays": []}, "key 'arrays' is []", "expected a list of pairs"),
    ({"arrays": [[64]]}, "key 'arrays' is [[64]]", "expected a list of pairs"),
    ({"arrays": [[60, 30]]}, "key 'arrays' has [60, 30]", "ti = 60 is not 8, 16, 32 or 64"),
    ({"arrays": [[64, 0]]}, "key 'arrays' has [64, 0]", "to = 0 does not fit"),
    ({"axi_data_bits": 96}, "key 'axi_data_bits' is 96", "expected a power of two from 32 to 1024"),
    ({"axi_data_bits": 0}, "key 'axi_data_bits' is 0", "expected a power of two from 32 to 1024"),
    ({"dps": 3}, "key 'dps' is unknown", "did you mean 'dsp'?"),
    ({"colour": 3}, "key 'colour' is unknown", "known: name, title, part"),
    ({"path": "x"}, "key 'path' is unknown", ""),
])
def test_wrong_value_names_file_key_and_expectation(tmp_path, pattern, change, message, hint):
    error = refused(board_file(tmp_path, pattern | change))
    assert error.message == f"board file 'mine.yaml': {message}"
    assert hint in error.hint


@pytest.mark.parametrize("key", ["name", "lut", "memory_gb_s", "memory_efficiency", "ports", "arrays", "sources"])
def test_missing_key(tmp_path, pattern, key):
    error = refused(board_file(tmp_path, {k: v for k, v in pattern.items() if k != key}))
    assert error.message == f"board file 'mine.yaml': key {key!r} is missing"
    assert error.hint.startswith("expected ")


def test_not_yaml(tmp_path):
    assert "is not YAML" in refused(board_file(tmp_path, "a: [1, 2")).message
    assert "line 1" in refused(board_file(tmp_path, "a: [1, 2")).message
    assert "holds list, expected a map" in refused(board_file(tmp_path, "- 1")).message
    assert "holds NoneType" in refused(board_file(tmp_path, "")).message
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in refused(path).message


@pytest.mark.parametrize("text, words", [
    ("[" * 100_000, "is nested too deeply"), ("a: 2026-99-99", "is not YAML"), ("lut: " + "9" * 5000, "is not YAML"),
    ("? [1]\n: 2", "is not YAML"), ("a: !!python/object:os.system x", "is not YAML"),
])
def test_a_file_from_a_stranger(tmp_path, text, words):
    error = refused(board_file(tmp_path, text))
    assert words in error.message and len(error.message) < 500 and error.hint


def test_a_tree_without_end(tmp_path, pattern):
    """Each line ten of the one before: 10^20 values when written out."""
    lines = ["a0: &a0 [1]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(20))]
    text = "\n".join(f"x{line}" for line in lines)
    path = board_file(tmp_path, text.replace("xa0:", "name:", 1))
    assert "key 'xa1' is unknown" in refused(path).message
    values = yaml.safe_load(text)
    path = board_file(tmp_path, yaml.safe_dump(pattern | {"clock_mhz": values["xa20"]}))
    assert len(refused(path).message) < 500


def test_no_file(tmp_path):
    error = refused(tmp_path / "mine.yaml")
    assert "cannot be read: No such file" in error.message and error.hint


# ---------------------------------------------------------------- paths

def test_data_dir_prefers_the_wheel_and_trusts_only_a_checkout(tmp_path):
    package = tmp_path / "hwgen"
    package.mkdir()
    (tmp_path / "boards").mkdir()
    with pytest.raises(ToolError, match="'boards' of hwgen is missing"):
        paths.data_dir("boards", package)
    (tmp_path / "pyproject.toml").touch()
    assert paths.data_dir("boards", package) == tmp_path / "boards"
    (package / "_data" / "boards").mkdir(parents=True)
    assert paths.data_dir("boards", package) == package / "_data" / "boards"


def test_data_dir_of_this_project():
    assert (paths.data_dir("rtl/sv") / "pe_array.sv").is_file()
