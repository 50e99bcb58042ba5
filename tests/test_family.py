"""Families: every bundled file reads, every mistake in one is named, a board may bring its own, and no Python knows one by name."""

from __future__ import annotations

import ast
from pathlib import Path
import re

import numpy as np
import pytest
import yaml

from hwgen import api, paths
from hwgen.cli import main
from hwgen.devices.board import boards, load_board
from hwgen.devices.family import RESOURCES, UNITS, bundled_families, families
from hwgen.engines.rtl.cost import KINDS
from hwgen.errors import CapacityError, TargetError, ToolError
import onnx_nets

ROOT = Path(__file__).resolve().parent.parent
BOARDS = paths.data_dir("boards")


IMAGES = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    net = onnx_nets.vit()
    return net.save(tmp_path_factory.mktemp("net") / "m.onnx", {"y": onnx_nets.result(net)})


@pytest.fixture(scope="module")
def pattern() -> dict:
    """The content of a good family file."""
    return yaml.safe_load((BOARDS / "families" / "zynq-ultrascale+.yaml").read_text())


@pytest.fixture
def mine(tmp_path):
    """Writes a family file beside a board file that names it; gives the board's path."""
    def write(data) -> Path:
        (tmp_path / "my_family.yaml").write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        board = yaml.safe_load((BOARDS / "zcu104.yaml").read_text()) | {"family": "./my_family.yaml"}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(board))
        return tmp_path / "mine.yaml"
    return write


def refused(path: Path) -> TargetError:
    with pytest.raises(TargetError) as info:
        load_board(path)
    assert info.value.where == str(path.parent / "my_family.yaml") and len(info.value.message) < 500
    return info.value


def changed(data: dict, key: str, value) -> dict:
    """A copy with ``value`` at a dotted key; ... takes it away."""
    first, _, rest = key.partition(".")
    if rest:
        return data | {first: changed(data[first], rest, value)}
    return {k: v for k, v in data.items() if k != key} | ({} if value is ... else {key: value})


def test_names():
    assert [family.name for family in bundled_families()] == list(families())
    assert {board.family.name for board in boards()} == set(families()), "no family without a board"


@pytest.mark.parametrize("family", bundled_families(), ids=lambda family: family.name)
def test_every_number_has_a_source(family):
    assert {"costs"} <= family.sources.keys() and all(len(text) > 20 for text in family.sources.values())
    if family.limits:
        assert {"multiplier", "memories"} <= family.sources.keys()


def test_the_resources_are_those_of_the_estimate():
    assert set(RESOURCES) == set(KINDS)


def test_a_board_may_bring_its_family(mine, pattern):
    ours = load_board(mine(pattern | {"name": "mine", "multiplier": {"wide": 30, "narrow": 20, "piece": 17, "signed_only": True}}))
    assert (ours.family.name, ours.family.multiplier.wide, ours.to_dict()["family"]) == ("mine", 30, "mine")
    assert load_board(mine(pattern)).family == load_board("zcu104").family


@pytest.mark.parametrize("key, expected", [
    ("name", "text"), ("limits", "true or false"), ("not_measured", "a list of texts"), ("packing", "true or false"),
    ("multiplier", "a map of wide, narrow, piece and signed_only"), ("multiplier.piece", "a whole number, 1 or more"),
    ("costs", "a map of pairs of numbers, 0 or more"), ("lutram.luts", "a number above 0"), ("lutram.words", "a whole number, 0 or more"),
    ("block_ram.shapes", "a list of pairs of whole numbers, 1 or more, not empty"),
    ("large_ram", "a map of width, depth and least_gain, or null"), ("usable", "a map of numbers above 0"),
    ("yosys", "a map of libraries, commands, cells, in_dsp and notes, or null"), ("yosys.cells", "a map of maps of numbers, 0 or more"),
    ("vitis", "a map of stand_in and processor, or null"), ("vitis.stand_in", "text, or null"), ("sources", "a map of texts"),
    ("vitis.processor.clock", "text"),
])
def test_a_missing_key_is_named_with_what_was_expected(mine, pattern, key, expected):
    error = refused(mine(changed(pattern, key, ...)))
    assert error.message == f"family file 'my_family.yaml': key {key!r} is missing"
    assert error.hint == f"expected {expected}"


@pytest.mark.parametrize("unit", UNITS)
def test_a_missing_cost_is_named(mine, pattern, unit):
    error = refused(mine(changed(pattern, f"costs.{unit}", ...)))
    assert error.message == f"family file 'my_family.yaml': key 'costs.{unit}' is missing"
    assert error.hint == "expected a pair of numbers: LUTs and flip-flops of one"


@pytest.mark.parametrize("key, value, message, hint", [
    ("colour", 3, "key 'colour' is unknown", "known: name, title"),
    ("multiplyer", 3, "key 'multiplyer' is unknown", "did you mean 'multiplier'?"),
    ("multiplier.wides", 3, "key 'multiplier.wides' is unknown", "did you mean 'wide'?"),
    ("multiplier", 27, "key 'multiplier' is 27", "expected a map of wide, narrow, piece and signed_only"),
    ("multiplier.wide", 0, "key 'multiplier.wide' is 0", "expected a whole number, 1 or more"),
    ("multiplier.wide", True, "key 'multiplier.wide' is True", "expected a whole number, 1 or more"),
    ("multiplier.signed_only", 1, "key 'multiplier.signed_only' is 1", "expected true or false"),
    ("multiplier.wide", 25, "key 'packing' is True", "27 x 8 bits, the multiplier has 25 x 18"),
    ("not_measured", "all", "key 'not_measured' is 'all'", "expected a list of texts"),
    ("costs.drain lane", [1], "key 'costs.drain lane' is [1]", "expected a pair of numbers, 0 or more"),
    ("costs.drain lane", [-1, 3], "key 'costs.drain lane' is [-1, 3]", "expected a pair of numbers, 0 or more"),
    ("costs.drain lanes", [1, 2], "key 'costs.drain lanes' is unknown", "did you mean 'drain lane'?"),
    ("lutram.luts", 0, "key 'lutram.luts' is 0", "expected a number above 0"),
    ("lutram.luts", float("nan"), "key 'lutram.luts' is nan", "expected a number above 0"),
    ("lutram.depth", 1e3, "key 'lutram.depth' is 1000.0", "expected a whole number, 1 or more"),
    ("block_ram.shapes", [], "key 'block_ram.shapes' is []", "not empty"),
    ("block_ram.shapes", [[36, 0]], "key 'block_ram.shapes' is [[36, 0]]", "expected a list of pairs of whole numbers, 1 or more"),
    ("large_ram.width", None, "key 'large_ram.width' is None", "expected a whole number, 1 or more"),
    ("usable.lut", 1.5, "key 'usable.lut' is 1.5", "it is a share of the chip, at most 1"),
    ("usable.lut", ..., "key 'usable.lut' is missing", "expected a share, above 0 and at most 1"),
    ("usable.luts", 1, "key 'usable.luts' is unknown", "did you mean 'lut'?"),
    ("yosys", "yes", "key 'yosys' is 'yes'", "expected a map of libraries, commands"),
    ("yosys.cells.LUT6", 1, "key 'yosys.cells.LUT6' is 1", "expected a map of numbers, 0 or more"),
    ("yosys.cells.LUT6", {"luts": 1}, "key 'yosys.cells.LUT6.luts' is unknown", "did you mean 'lut'?"),
    ("yosys.cells", {7: {"lut": 1}}, "key 'yosys.cells' is {7: {'lut': 1}}", "expected a map of maps"),
    ("vitis.processor.memory", ["A", "B"], "key 'vitis.processor.memory' is ['A', 'B']", "expected three names"),
    ("sources", {"a": 1}, "key 'sources' is {'a': 1}", "expected a map of texts"),
])
def test_a_wrong_value_is_named_with_what_was_expected(mine, pattern, key, value, message, hint):
    error = refused(mine(changed(pattern, key, value)))
    assert error.message == f"family file 'my_family.yaml': {message}"
    assert hint in error.hint


@pytest.mark.parametrize("key", ["large_ram", "yosys", "vitis", "vitis.stand_in"])
def test_what_a_family_may_not_have(mine, pattern, key):
    assert load_board(mine(changed(pattern, key, None)))


@pytest.mark.parametrize("key, value", [
    ("yosys.commands", ["exec -- touch PWNED"]), ("yosys.commands", ["synth_x; exec -- touch PWNED"]), ("yosys.commands", ["!touch PWNED"]),
    ("yosys.commands", ["synth_x\nexec -- touch PWNED"]), ("yosys.libraries", ["script a.ys"]), ("yosys.libraries", ["read_verilog `id`"]),
    ("vitis.processor.ip", "ps]; exec touch PWNED; ["), ("vitis.processor.clock", "a b"), ("vitis.processor.memory", ["A", "B", "$C"]),
    ("vitis.processor.settings", {"A} 1; exec x; {": 1}), ("vitis.processor.automation", {"A": "1}; exec x; {"}),
    ("vitis.processor.automation", {"A ": "1"}), ("vitis.processor.clock", "7a"), ("vitis.processor.interrupt", "A\n"), ("vitis.processor.control", ""),
])
def test_a_family_cannot_smuggle_a_command(mine, pattern, key, value):
    assert refused(mine(changed(pattern, key, value))).message.startswith(f"family file 'my_family.yaml': key '{key}' has ")


@pytest.mark.parametrize("text, words", [("a: [1, 2", "is not YAML"), ("- 1", "holds list"), ("[" * 100_000, "is nested too deeply")])
def test_a_file_that_is_no_family(mine, text, words):
    error = refused(mine(text))
    assert error.message.startswith("family file 'my_family.yaml' ") and words in error.message and "boards/families" in error.hint


def test_no_file(mine, pattern, tmp_path):
    path = mine(pattern)
    (tmp_path / "my_family.yaml").unlink()
    assert "family file 'my_family.yaml' cannot be read: No such file" in refused(path).message


def test_a_packed_board_of_a_family_that_cannot_pack(mine, pattern):
    path = mine(pattern | {"packing": False})
    with pytest.raises(TargetError, match="key 'packed' is True") as info:
        load_board(path)
    assert "mine.yaml" in info.value.message and "too narrow" in info.value.hint


def test_what_was_not_measured_is_told_by_targets_and_by_every_build(network, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["targets"])
    text = capsys.readouterr().out
    noted = {name for names in re.findall(r"(?m)^note: resources on (.+?) are planning figures: ", text) for name in names.split(", ")}
    assert noted == {board.name for board in boards() if board.family.not_measured} == {"pynq-z2", "zedboard", "de10-nano"}
    for name in ("de10-nano", "zcu104"):
        acc = api.compile(network, target=name, calib={"x": IMAGES}, out=tmp_path / name)
        told = [f"resources on {name} are planning figures: {text}" for text in load_board(name).family.not_measured]
        assert [line for line in acc.report()["warnings"] if "planning figures" in line] == told and bool(told) == (name == "de10-nano")
        assert acc.report()["resources"]["stage"] == "estimate"


@pytest.mark.parametrize("name, array", [("pynq-z2", (16, 8)), ("de10-nano", (8, 8))])
def test_a_small_network_on_a_board_of_a_family_that_is_only_yaml(network, tmp_path, name, array):
    """The engine that the choice finds, word for word, with the board's memory."""
    acc = api.compile(network, target=name, calib={"x": IMAGES}, out=tmp_path / "build")
    assert (acc.build.program.config.ti, acc.build.program.config.to) == array
    assert acc.build.program.config.axi_data_bits == load_board(name).axi_bits(array[1])
    try:
        result = acc.simulate({"x": IMAGES})
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    assert result.bit_exact and result.cycles_per_image > 500
    assert result.memory["bytes_per_cycle"] == load_board(name).bytes_per_cycle()


def test_a_zynq_7000_has_an_hls_project_of_its_own(network, tmp_path):
    api.compile(network, target="pynq-z2", calib={"x": IMAGES}, out=tmp_path / "build", backend="hls")
    script = (tmp_path / "build" / "hls" / "scripts" / "vivado.tcl").read_text()
    assert "the Zynq-7000 PS," in script and "ultra" not in script.lower() and "_FPD" not in script and "pl_clk0" not in script
    assert "processing_system7 -config {make_external {FIXED_IO, DDR} apply_board_preset 1 Master Disable Slave Disable} $ps" in script
    assert "CONFIG.PCW_IRQ_F2P_INTR 1 \\\n    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ 100 ] $ps" in script
    assert "m_axi_gmem_weights S_AXI_HP0 m_axi_gmem_input S_AXI_HP1 m_axi_gmem_output S_AXI_HP2}" in script
    with pytest.raises(CapacityError, match="Vitis HLS has no devices of the family cyclone-v, as de10-nano is"):
        api.compile(network, target="de10-nano", calib={"x": IMAGES}, out=tmp_path / "other", backend="hls")


def test_no_python_file_names_a_family():
    """A name that is also a board's (the default target) may stand alone."""
    names = [name for name in families() if name not in {board.name for board in boards()}]
    assert len(names) > 1
    sources = [path for folder in ("hwgen", "rtl/hwgen_rtl", "sim/hwgen_sim") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [(path.name, node.lineno, name) for path in sources for node in ast.walk(ast.parse(path.read_text())) for name in names
             if isinstance(node, ast.Constant) and isinstance(node.value, str) and name in node.value.lower()]
    assert found == []
