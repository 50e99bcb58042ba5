"""bench/replay.py: the recorded networks give what they gave, every kind of change is seen, and a changed comment is none."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import sys

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from recorded import adapter, digests, form
import replay

CODE = """// a comment
#include "hwgen_config.hpp"
namespace values {
constexpr hwgen::Value norm = {0, 9, 4};   /* more */
constexpr hwgen::Value head = {36, 1, 4};
}
constexpr hwgen::Step PROGRAM[] = {hwgen::linear(values::norm, values::head, {16384, 21})};
"""


@pytest.fixture(scope="module")
def network() -> form.Recorded:
    return next(form.read(replay.FOLDER / "random-000.zip"))


@pytest.fixture(scope="module")
def found(network) -> digests.Digests:
    return digests.network(network, ROOT)


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["replay.py", *arguments])
    return replay.main()


# ---------------------------------------------------------------- the networks

def test_a_part_of_the_networks_gives_what_it_gave(monkeypatch, capsys):
    code = run(monkeypatch, "--quick")
    printed = capsys.readouterr().out
    assert (code, printed.splitlines()[-1].startswith("42 networks")) == (0, True), printed


def test_what_is_recorded():
    random = [network for path in replay.FOLDER.glob("*.zip") for network in form.read(path, "random-*")]
    nodes = [node for network in random for task in network.tasks for node in task["nodes"]]
    builds = [build for network in random for build in network.builds.values()]
    assert len(random) == 200 and {network.key for network in random} < digests.read(replay.DIGESTS).keys()
    assert sum(path.stat().st_size for path in replay.FOLDER.glob("*.zip")) < 6e6
    assert {node["op"] for node in nodes} == adapter.OPS.keys()
    assert {node["attributes"].get("act") or node["attributes"].get("kind") for node in nodes} - {None} == {
        "gelu", "gelu_tanh", "silu", "relu"}
    assert {(node["attributes"]["top_k"], node["attributes"]["renormalize"]) for node in nodes if node["op"] == "moe"} == {
        (k, again) for k in (1, 2, 3) for again in (False, True)}
    assert {build.precision for build in builds} == {"w8a8", "w4a8", "w4a8-experts"}
    assert {build.method for build in builds} == set(form.METHODS)
    assert {build.batch for build in builds} >= {1, 2, 3, 4} and {build.array for build in builds} >= {(8, 8), (16, 16), (32, 16), (64, 48)}
    assert {key for build in builds for key in build.ablation} == {"query_block", "softmax_passes", "serial", "moe_block"}
    assert {build.taps for build in builds} == {False, True} and {len(network.tasks) for network in random} == {1, 2, 3}
    assert max(len(task["outputs"]) for network in random for task in network.tasks) > 1
    refused = [column for network in digests.read(replay.DIGESTS).values() for build in network.values()
               for column in build.values() if column.endswith("Error")]
    assert len(refused) < len(builds) / 5


# ---------------------------------------------------------------- changes that are seen

def test_another_shift_is_seen(network, found):
    """A range twice as large moves every shift behind it."""
    value = next(node["output"] for node in network.tasks[0]["nodes"] if node["op"] == "attention")
    louder = tuple({name: {role: tuple(2 * n for n in numbers) for role, numbers in roles.items()} if name == value else roles
                    for name, roles in task.items()} for task in network.ranges)
    differing = digests.differing(digests.network(replace(network, ranges=louder), ROOT), found)
    assert differing.keys() >= {"program", "weights", "results", "values", "hls", "hls weights"}
    assert "builds" not in differing


def test_another_weight_is_seen_in_the_image_and_not_in_the_program(network, found):
    name = next(node["arrays"]["weight"] for node in network.tasks[0]["nodes"] if node["name"].endswith("head"))
    weight = network.arrays[name].copy()
    column = weight[:, 0]
    column[np.argmin(np.abs(column))] += np.abs(column).max() / 2
    differing = digests.differing(digests.network(replace(network, arrays=network.arrays | {name: weight}), ROOT), found)
    assert differing.keys() >= {"weights", "results", "values", "hls weights"}
    assert not differing.keys() & {"program", "frame", "cost", "config", "notes"}


def test_another_place_is_seen(network, found):
    name, build = next(iter(network.builds.items()))
    other = replace(network, builds={name: replace(build, array=(8, 8), axi_data_bits=32, hls=(24, 3))})
    differing = digests.differing(digests.network(other, ROOT), {name: found[name]})
    assert differing.keys() >= {"program", "weights", "cost", "config", "hls", "hls weights"}
    assert not differing.keys() & {"results", "values"}


def test_missing_and_new_columns_and_builds_differ():
    assert digests.differing({"a": {"program": "1"}}, {"a": {"program": "1"}}) == {}
    assert digests.differing({"a": {"program": "1", "hls": "2"}, "b": {}}, {"a": {"program": "1", "notes": "3"}}) == {
        "builds": ["b"], "hls": ["a"], "notes": ["a"]}


# ---------------------------------------------------------------- the text of C++

def test_comments_names_and_space_are_no_difference():
    again = CODE.replace("a comment", "another").replace("/* more */", "").replace("    ", "\n")
    again = again.replace("norm", "Zknorm").replace("values", "places")
    assert again != CODE and digests.of({"x": again}) == digests.of({"x": CODE})


@pytest.mark.parametrize("change", (
    ("21", "22"), ("hwgen::linear", "hwgen::head"), ("(values::norm, values::head", "(values::head, values::norm"), ("{36, 1", "{36, 2"),
    ('"hwgen_config.hpp"', '"hwgen_top.hpp"'), ("constexpr hwgen::Step", "const hwgen::Step")))
def test_any_other_change_of_the_text_is_one(change):
    assert digests.of({"x": CODE.replace(*change)}) != digests.of({"x": CODE})


def test_what_looks_like_a_comment_in_a_string_is_none():
    assert digests.normalised('f("a // b", 1) // c') == 'i0 ( "a // b" , 1 )'


# ---------------------------------------------------------------- command and files

def test_the_command_names_network_column_and_build(monkeypatch, capsys, tmp_path):
    committed = digests.read(replay.DIGESTS)
    build = next(iter(committed["random-001"]))
    committed["random-001"][build]["program"] = "0" * 16
    digests.write(tmp_path / "digests.json", committed)
    monkeypatch.setattr(replay, "DIGESTS", tmp_path / "digests.json")
    assert run(monkeypatch, "--only", "random-001") == 1
    assert capsys.readouterr().out.splitlines()[0] == f"random-001: program differs in {build}"
    assert run(monkeypatch, "--only", "random-001", "--update") == 0
    assert (tmp_path / "digests.json").read_text() == Path(ROOT / "bench/recorded/digests.json").read_text()
    assert run(monkeypatch, "--only", "random-001") == 0
    assert run(monkeypatch, "--only", "no such network") == 1


def test_the_digests_file_has_a_line_for_each_network():
    lines = replay.DIGESTS.read_text().splitlines()
    assert len(lines) == len(json.loads(replay.DIGESTS.read_text())) + 2


def test_files_are_read_as_they_were_written(tmp_path):
    levels = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    arrays = {"a": {"unit": 0.5}, "b": {"unit": 0.25, "offset": 4, "seed": 7, "shape": [2000]}}
    content = {"tasks": [], "ranges": [], "builds": {}, "arrays": arrays}
    form.write(tmp_path / "one.zip", {"key": (content, {"a": levels})})
    form.write(tmp_path / "two.zip", {"key": (content, {"a": levels})})
    (found,) = form.read(tmp_path / "one.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes() and found.key == "key"
    assert found.arrays["a"].dtype == np.float32 and (found.arrays["a"] == levels / 2).all()
    assert found.arrays["b"].mean() == pytest.approx(1, abs=3) and found.arrays["b"].std() == pytest.approx(form.SPREAD / 4, rel=0.05)
    form.write(tmp_path / "old.zip", {"key": (content | {"form": 0}, {})})
    with pytest.raises(ValueError, match="key: form 0, this reads form 1"):
        next(form.read(tmp_path / "old.zip"))


def test_noise_is_of_all_time():
    """Raw bits of PCG64, which numpy does not change."""
    assert form.noise((4,), 0, 7).tolist() == [298, 55, 91, 279]
    assert form.images((1, 2, 2), 2, 5).shape == (2, 1, 2, 2)
