"""Builds side by side: figures with units, what differs, what is best, Pareto fronts, and what cannot be compared."""

from __future__ import annotations

import csv
import io
import json

import pytest

from hwgen import __version__, api
from hwgen.errors import BuildVersionError, InputError
from hwgen.page import compare_page, compare_reports
from hwgen.page.compare import front
from test_page import DATA, Reader


def build(cycles: float, dsp: int, error: float = 0.01, **more) -> dict:
    return DATA | {"estimate": DATA["estimate"] | {"cycles_per_image": cycles}, "resources": {"used": {"lut": 10 * dsp, "dsp": dsp}, "available": {}},
                   "quantization": DATA["quantization"] | {"output_error": {"y": error}}} | more


THREE = [("a", build(400, 90)), ("b", build(300, 120)), ("c", build(500, 100, 0.02))]


def row(compared, key):
    return next(row for row in compared.rows if row.figure.key == key)


def test_what_differs_and_what_is_best():
    compared = compare_reports(THREE)
    assert row(compared, "cycles_per_image").values == (400, 300, 500) and row(compared, "cycles_per_image").best == {1}
    assert row(compared, "dsp_cells").best == {0} and row(compared, "images_per_second").best == {1} and row(compared, "output_snr_db").best == {0, 1}
    assert not row(compared, "board").differs and row(compared, "board").best == set()
    assert ("* DSP slices", "90 <", "120", "100") in compared.lines() and ("  board", "zcu104", "zcu104", "zcu104") in compared.lines()
    assert compared.notes == ()


def test_the_front_is_what_nothing_beats():
    compared = compare_reports(THREE)
    assert front(compared, "dsp_cells") == [1, 0]                           # c is slower than a and larger
    assert front(compared, "output_snr_db") == [1]                          # a and b are as exact, b is faster


def test_json_and_csv_hold_the_same():
    compared = compare_reports(THREE)
    data, [heading, *lines] = compared.to_dict(), csv.reader(io.StringIO(compared.to_csv()))
    assert heading == ["name", *(key for key in data["builds"][0] if key != "name")]
    assert [[("" if value is None else str(value)) for value in build.values()] for build in data["builds"]] == lines
    assert data["best"]["dsp_cells"] == ["a"] and data["pareto"]["dsp_cells"] == ["b", "a"] and "dsp_cells" in data["differs"] and json.dumps(data)


def test_a_plot_by_itself():
    compared = compare_reports(THREE)
    assert compared.drawing("dsp_cells")._repr_svg_().startswith("<svg ") and "DSP" in compared.drawing("dsp_cells").svg
    with pytest.raises(InputError, match="no drawing of 'cycles'"):
        compared.drawing("cycles")
    with pytest.raises(InputError, match="fewer than two builds"):
        compare_reports([("a", build(400, 90)), ("b", build(1, 1, quantization={}))]).drawing("output_snr_db")


def test_networks_and_stages_that_differ_are_said():
    other = build(1, 1, source={"sha256": "1"}, network={"name": "other", "useful_macs_per_image": 1}, calibration="random")
    simulated = build(1, 1, simulation={"cycles_per_image": 9, "memory": {"bytes_per_cycle": 1}, "images": 1, "bit_exact": True})
    notes = "\n".join(compare_reports([("a", other), ("b", simulated)]).notes)
    assert "different networks or files: other, net" in notes and "simulated, of others estimated" in notes and "no accuracy" in notes


def test_none_is_best_across_stages():
    simulated = {"cycles_per_image": 390, "memory": {"bytes_per_cycle": 1}, "images": 1, "bit_exact": True}
    compared = compare_reports([("a", build(400, 90)), ("b", build(400, 90, simulation=simulated))])
    assert row(compared, "cycles_per_image").differs and not any(row.best for row in compared.rows) and compared.to_dict()["best"] == {}
    assert front(compared, "dsp_cells") == [1, 0] and 'class="front"' not in compared.drawing("dsp_cells").svg


def test_an_axis_of_one_value_has_one_mark():
    drawn = compare_reports([("a", build(400, 90)), ("b", build(300, 90))]).drawing("dsp_cells").svg
    assert drawn.count(">90<") == 1 and ">DSP slices<" in drawn


def test_what_a_build_does_not_know_is_left_open():
    bare = {key: value for key, value in DATA.items() if key not in ("resources", "quantization", "estimate")}
    compared = compare_reports([("a", bare), ("a", DATA)])
    assert compared.names == ("a #1", "a #2") and row(compared, "dsp_cells").values == (None, 90) and row(compared, "dsp_cells").shown(0) == "–"
    assert compared.to_dict()["pareto"]["dsp_cells"] == ["a #2"]
    reader = Reader(compare_page(compared, 0.0))
    assert list(reader.sections) == ["builds", "pareto", "figures"] and all(reader.sections.values()) and "Fewer than two" in reader.sections["pareto"]


def test_the_page_names_every_build():
    reader = Reader(compare_page(compare_reports([("<x>", THREE[0][1]), *THREE[1:]]), 0.0))
    assert "1: <x>" in reader.sections["builds"] and "joined" in reader.sections["pareto"] and reader.outside == []


def test_one_build_is_no_comparison():
    with pytest.raises(InputError, match="1 build is given"):
        compare_reports(THREE[:1])


@pytest.mark.parametrize("content, error, words", [
    ("[1", InputError, "cannot be read"), ("[1]", InputError, "no report"), ('{"a": NaN}', InputError, "cannot be read"),
    (json.dumps({"version": "9.9", "network": {}}), BuildVersionError, "written by hwgen 9.9"),
    (json.dumps({"version": __version__, "network": {}}), InputError, "holds no figures"),
    (json.dumps({"version": __version__, "network": 3}), BuildVersionError, "something else")])
def test_files_that_are_no_reports(tmp_path, content, error, words):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(error, match=words):
        api.compare([tmp_path / "r.json", tmp_path / "r.json"])


def test_the_file_that_is_wrong_is_named(tmp_path):
    (tmp_path / "good.json").write_text(json.dumps(THREE[0][1] | {"version": __version__}))
    (tmp_path / "bad.json").write_text(json.dumps(THREE[0][1] | {"version": __version__, "board": []}))
    with pytest.raises(BuildVersionError, match="something else") as error:
        api.compare([tmp_path / "good.json", tmp_path / "bad.json"])
    assert error.value.where == str(tmp_path / "bad.json")


def test_reports_as_files(tmp_path):
    for name, data in THREE:
        (tmp_path / f"{name}.json").write_text(json.dumps(data | {"version": __version__}))
    compared = api.compare([tmp_path / "a.json", tmp_path / "b.json"])
    assert [story.speed.cycles for story in compared.stories] == [400, 300]
    with pytest.raises(InputError, match="no such build directory"):
        api.compare([tmp_path / "a.json", tmp_path / "none"])
