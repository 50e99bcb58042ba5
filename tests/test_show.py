"""`hwgen show`: what stands in a line of each stage, folding, chosen nodes, what is refused, the command."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import re
from types import SimpleNamespace

import numpy as np
import pytest

from hwgen import api, cli, listing
from hwgen.commands import terminal
from hwgen.engines.rtl import text as program_text
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import HwgenError, InputError, ModelError
from hwgen.graph import text as graph_text
from hwgen.listing import Line, Part
from hwgen.steps import text as steps_text
import onnx_nets
from qgraphs import random_model, random_qgraph
from test_cli import documented

ESCAPES = "n\n\x1b[2J\u202e"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    net = onnx_nets.vit(router="plain")
    return net.save(tmp_path_factory.mktemp("show") / "moe.onnx", {"y": onnx_nets.result(net)})


def entry(name: str, kind: str = "", full: str = "") -> Line:
    return Line((f"= {kind}", f"; {name}"), name, kind or name, full or name, lambda: {"field": name})


def part(*lines: Line, before: str = "head") -> Part:
    return Part(before, lambda length: [Line((line.cells[0], f"; {listing.short(line.node, length)}"), line.node, line.kind, line.full, line.detail)
                                        for line in lines])


# ---------------------------------------------------------------- listings

def test_names_are_cut_in_the_middle():
    assert listing.short("abcdefghij", 10) == "abcdefghij" and listing.short("abcdefghijk", 10) == "abc…fghijk"
    assert [len(listing.short("x" * 99, n)) for n in listing.NAMES] == list(listing.NAMES)


def test_lines_are_aligned_and_never_too_wide():
    text = listing.text([part(entry("a", "Add"), entry("b" * 300, "LayerNorm"), entry("c" * 50, "x" * 200))], everything=True)
    lines = text.splitlines()
    assert lines[1] == "   0 = Add        ; a" and lines[2].startswith("   1 = LayerNorm  ; bbb") and "…" in lines[2]
    assert max(map(len, lines)) <= listing.WIDTH and lines[3].endswith("; " + listing.short("c" * 50, listing.NAMES[-1]))


def test_repetitions_are_folded_inside_of_repetitions_too():
    block = ["Norm", "Expert", "Expert", "Expert", "Expert", "Expert", "Add"]
    part_ = part(entry("start", "start"), *(entry(f"n{i}", kind) for i, kind in enumerate(block * 3)), entry("end"))
    assert listing.text([part_]).splitlines() == [
        "head", "   0 = start   ; start", "   1 = Norm    ; n0", "   2 = Expert  ; n1",
        "     … this line 4 more times, up to line 6 (nodes n2 to n5)", "   7 = Add     ; n6",
        "     … these 7 lines 2 more times, up to line 21 (nodes n7 to n20)", "  22 =         ; end"]
    assert len(listing.text([part_], everything=True).splitlines()) == 24


@pytest.mark.parametrize("times, folded", [(3, False), (4, False), (5, True)])
def test_what_saves_little_is_not_folded(times, folded):
    lines = listing.text([part(*(entry(f"n{i}", "Add") for i in range(times)))]).splitlines()
    assert len(lines) == (3 if folded else times + 1)


def test_a_later_task_shows_what_is_its_own():
    first, second = (part(*(entry(f"n{i}", f"k{i}") for i in range(5)), entry("gate", "Gate", full), entry("end"), before=full) for full in "ab")
    assert listing.text([first, second]).splitlines()[8:] == ["b", "     … lines 0 to 4 are those of the first", "   5 = Gate  ; gate", "   6 =       ; end"]


def test_a_line_that_wraps_the_terminal_is_none():
    text = listing.text([part(entry(ESCAPES, "Add"), before=ESCAPES)])
    assert all(line.isprintable() for line in text.splitlines()) and "(U+001B)" in text


# ---------------------------------------------------------------- chosen nodes

def test_a_node_is_chosen_by_name_then_by_part_of_it():
    parts = [part(entry("a.b"), entry("a"), entry("c.a"), entry("d"))]
    assert listing.nodes(parts, "a", {}) == {"a"} and listing.nodes(parts, ".", {}) == {"a.b", "c.a"}
    assert listing.nodes(parts, "fused", {"fused": "d"}) == {"d"} and listing.nodes(parts, "use", {"fused": "d", "lost": "?"}) == {"d"}
    assert listing.detailed(parts, {"a", "d"}).splitlines() == ["head", "   1 a", "     field  a", "   3 d", "     field  d"]


@pytest.mark.parametrize("node", ["blocks.0.atn", "", "zzz", ESCAPES])
def test_an_unknown_node_is_refused_with_near_names(node):
    with pytest.raises(InputError, match="no line is of an ONNX node ") as caught:
        listing.nodes([part(entry("blocks.0.attn"), entry("head"))], node, {})
    assert "blocks.0.attn" in caught.value.hint and caught.value.where == "option --node" and str(caught.value).replace("\n", "").isprintable()


# ---------------------------------------------------------------- stages

def test_every_stage_of_a_model(model):
    head = {"onnx": f"onnx file {model}: 48 nodes, input x [1, 1, 8, 8]"[:listing.WIDTH], "graph": "graph y: 16 nodes, input x [1, 8, 8]",
            "steps": "steps of network y: 22 steps, input x as s8 [4, 16]", "program": "program: 22 instructions, 1 task, batch 1, array 32x32, "}
    some = {"onnx": "= TopK                %29, w30 [1]                               part of reducesum_0  ; topk_0",
            "graph": "   7 [5, 16]  = Attention %4, %5, %6  num_heads 2, scale 0.353553", "steps": "= %4 x keys(%5) | requant s16.6  (2 heads)",
            "program": "  11 res @0    x weights    -> router, act @0  [5, 16] -> 4   slack 0    keep to16 top 2 of 4  ; reducesum_0: gate"}
    for stage, start in head.items():
        shown = api.show(model, stage)
        lines = str(shown).splitlines()
        assert shown.stage == stage and lines[0].startswith(start) and any(some[stage] in line for line in lines), stage
        assert max(map(len, lines)) <= listing.WIDTH and len(lines) <= len(shown.lines) + 2
        assert [line["number"] for line in shown.lines] == list(range(len(shown.lines))) and json.dumps(shown.lines)
    assert str(api.show(model)) == str(api.show(model, "graph"))


@pytest.mark.parametrize("stage, line", [
    ("onnx", "  30 topk_0.out, topk_0.out1 = TopK(softmax_1.out, w30)    ; topk_0"),
    ("graph", "  11 reducesum_0.out = MoE(layernormalization_1.out, act gelu, top_k 2, renormalize False)    ; reducesum_0"),
    ("steps", "  11 add_6.out.queue u16.16 [5, 2] = layernormalization_1.out s8 [5, 16] plain x add_6.out.gate.weight s8 [16, 4] | requant("),
    ("program", "  11 matmul router  <- norm x weights    column_params=1 keep=1 to16=1 load_slack=3 top_k=2 num_experts=4")])
def test_a_node_in_full(model, stage, line):
    """Also by the name of an ONNX node that became part of another."""
    shown = api.show(model, stage, "topk_0")
    lines = str(shown).splitlines()
    assert lines[1].startswith(line) and len(lines) > 8 and {entry["node"] for entry in shown.lines} == {"topk_0" if stage == "onnx" else "reducesum_0"}
    if stage == "steps":
        assert any(re.match(r" +stage 0\.factor +add_6\.out\.gate\.mult, add_6\.out\.gate\.shift: \*\d+>>\d+ \*\d+", line) for line in lines)
        assert sum(line.startswith("  1") for line in lines) == 9                   # the gate, and two layers of four experts


def test_what_is_not_supported_can_be_looked_at(tmp_path):
    net = onnx_nets.Net()
    t = net.embed(net.image())
    for act in ("Celu", "Gelu", "Gelu"):
        t = net.add(t, net.attention(net.norm(t)))
        t = net.add(t, net.mlp(net.norm(t), act))
    net.head(net.norm(t))
    path = net.save(tmp_path / "celu.onnx", {"y": onnx_nets.result(net)})
    lines = str(api.show(path, "onnx")).splitlines()
    assert any("= Celu " in line and "unsupported: operator Celu is not supported" in line for line in lines)
    with pytest.raises(ModelError, match="Celu"):
        api.show(path, "graph")


@pytest.mark.parametrize("name", ["graph", "steps", "program"])
def test_the_text_of_a_record(name):
    model = random_model(blocks="d" * 8)
    made = {"graph": lambda: (graph_text.text, model.tasks[0]), "steps": lambda: (steps_text.text, random_qgraph(blocks="d" * 8).tasks[0]),
            "program": lambda: (program_text.text, schedule(random_qgraph(blocks="d" * 8), ti=16, to=16, axi_data_bits=512))}
    text, record = made[name]()
    short, long = text(record), text(record, everything=True)
    assert "7 more times, up to line" in short and len(short.splitlines()) < 40 < len(long.splitlines())
    assert {line for line in short.splitlines() if "…" not in line} <= set(long.splitlines())


def test_numbers_of_calibration_are_left_to_the_detail(model):
    """What is listed does not depend on the machine whose BLAS found the ranges."""
    rng = np.random.default_rng(0)
    calibs = [{"x": scale * rng.standard_normal((4, 1, 8, 8)).astype(np.float32)} for scale in (1, 3)]
    for stage in ("steps", "program"):
        one, two = (api.show(model, stage, calib=calib) for calib in calibs)
        assert str(one) == str(two) and one.lines != two.lines


# ---------------------------------------------------------------- the same text in errors

def test_a_node_out_of_order_is_printed():
    graph = random_model(blocks="d").tasks[0]
    nodes = (*graph.nodes[:3], *graph.nodes[:2:-1])
    with pytest.raises(ModelError, match="is used before it is produced") as caught:
        replace(graph, nodes=nodes).verify()
    assert caught.value.where == f"{type(nodes[3]).__name__} node {nodes[3].name!r}, {nodes[3]}" and f"{nodes[3].output} = " in caught.value.where
    with pytest.raises(ModelError, match="is defined twice") as caught:
        replace(graph, nodes=(*graph.nodes, graph.nodes[-1])).verify()
    assert str(graph.nodes[-1]) in caught.value.where


# ---------------------------------------------------------------- refusals

def test_what_cannot_be_shown(model, tmp_path):
    with pytest.raises(InputError, match="there is no stage 'rtl'"):
        api.show(model, "rtl")
    with pytest.raises(InputError, match="there is no such build|not a hwgen build"):
        api.show(tmp_path)
    with pytest.raises(HwgenError, match="cannot read the model"):
        api.show(tmp_path / "no.onnx")


def test_a_build_is_shown_as_it_was_compiled(model, tmp_path):
    acc = api.compile(model, out=tmp_path / "build", backend="hls")
    assert str(api.show(tmp_path / "build")) == str(acc.show("steps")) == str(api.show(model, "steps")).replace(str(model), "")
    assert str(api.show(tmp_path / "build", "steps", "reducesum_0", True)) == str(acc.show("steps", "reducesum_0"))
    for stage in ("onnx", "graph"):
        with pytest.raises(InputError, match=f"a build does not hold the stage {stage}") as caught:
            acc.show(stage)
        assert f"hwgen show MODEL.onnx --stage {stage}" in caught.value.hint
    assert str(acc.show()) == str(acc.show("steps"))
    with pytest.raises(InputError, match="the build holds no RTL"):
        acc.show("program")
    for options in ({"batch": 2, "quant": None}, {"shapes": {"x": (1, 1, 8, 8)}}):
        with pytest.raises(InputError, match="a build has been compiled with its options already"):
            api.show(tmp_path / "build", **options)
    program = schedule(acc.build.model, ti=8, to=8, axi_data_bits=64)
    object.__setattr__(acc, "build", replace(acc.build, program=program))
    assert str(acc.show()) == program_text.text(program)


# ---------------------------------------------------------------- the command

def test_the_command(monkeypatch, capsys, tmp_path):
    calls = []

    def show(source, stage, node, everything, **options):
        options.pop("progress")("import", 0, 0)
        calls.append((source, stage, node, everything, options))
        line = {"part": 0, "number": 0, "node": "n", "text": "line", "detail": {}}
        return SimpleNamespace(of=str(source), stage="steps", text="steps of [x]\n   0 line\n", lines=[line])
    monkeypatch.setattr(terminal, "api", lambda: SimpleNamespace(show=show))

    def run(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(arg) for arg in args])
        return stop.value.code or 0, capsys.readouterr().out
    assert run("show", "m.onnx", "--stage", "steps", "--node", "a[0]", "--all", "--shape", "x=1x2", "--target", "zcu102", "--calib", "c.npz",
               "--array", "8x8", "--method", "mse", "--precision", "w4a8", "--batch", "2", "--allow-host", "--json", tmp_path / "s.json") == (0, "steps of [x]\n   0 line\n")
    assert calls == [(Path("m.onnx"), "steps", "a[0]", True, {
        "shapes": {"x": (1, 2)}, "target": "zcu102", "calib": "c.npz", "array": (8, 8), "method": "mse", "precision": "w4a8", "batch": 2,
        "quant": None, "allow_host": True})]
    data = json.loads((tmp_path / "s.json").read_text())
    assert {"of", "stage", *(f"lines[].{key}" for key in data["lines"][0])} == documented("hwgen show") and set(data) == {"of", "stage", "lines"}
    assert run("show", "build")[0] == 0 and calls[1][:4] == (Path("build"), None, None, False)
    assert run("show", "build", "--stage", "rtl")[0] == 2
