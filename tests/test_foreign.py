"""Names from a stranger: in no generated file do they end a comment or a string, and nothing of them reaches a terminal as a command."""

from __future__ import annotations

from importlib.util import find_spec
import re
import subprocess

from hypothesis import given, strategies as st
import jinja2
import numpy as np
import pytest
import yaml

from hwgen import api, foreign, render
from hwgen.paths import data_dir
from hwgen.tools import cxx
import onnx_nets

TEXT = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("*/\\?\n\r\"'$[]{};#<>&`(){} \t\0\u202e\u2028\udcff")), max_size=30)
PWN = "system(\"touch PWNED\");"
NODE = f"*/\n{PWN}\n/* \\"
INPUT = "in\"\n#error PWNED\n*/ ??/\n$[exec touch PWNED]"
OUTPUT = f"*/\n#include <stdlib.h>\nstatic int hwgen_pwned = {PWN}\n/*\u202e\x1b[2J"
FILE = "a\nexec touch PWNED\n# <script>alert(1) \udcff {"


@given(TEXT)
def test_a_comment_stays_one_line_and_does_not_end(text):
    for spelt in (foreign.comment(text), foreign.markdown(text)):
        assert spelt.isprintable() and "*" not in spelt and "\\" not in spelt
    assert not set("?{}") & set(foreign.comment(text)) and not set("<>`[]&|") & set(foreign.markdown(text))
    assert foreign.visible(text).isprintable()
    foreign.visible(text).encode()


@pytest.mark.parametrize("text", ["/vit/blocks.0/attn", "onnx::Add_3", "größe 日本", "a-b (c)"])
def test_plain_names_stay_readable(text):
    assert foreign.comment(text) == foreign.visible(text) == foreign.markdown(text) == text


def test_what_is_marked_can_be_looked_up():
    assert foreign.comment("a*/\n\\") == "a(U+002A)/(U+000A)(U+005C)" and foreign.visible("\x1b\u202e\udcff") == "(U+001B)(U+202E)(U+DCFF)"
    assert foreign.visible("a\tb\nc", keep="\n\t") == "a\tb\nc"


def test_an_identifier_is_one():
    assert foreign.identifier("ZsaZd0") == "ZsaZd0"
    for text in ("", "a b", "0", "a\n", "é", "*/"):
        with pytest.raises(ValueError, match="is no identifier"):
            foreign.identifier(text)


def test_a_c_string_holds_the_bytes(tmp_path):
    texts = ["", NODE, INPUT, OUTPUT, "??/??'", "\udcff\udc80", "日本\0x", "1\x001", "\\", "'\"", "\u2028", "%s %n"]
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    source = "".join(f"    std::fwrite({foreign.c_string(text)}, 1, {len(data)}, stdout);\n" for text, data in zip(texts, raw, strict=True))
    (tmp_path / "a.cpp").write_text(f"#include <cstdio>\nint main() {{\n{source}}}\n")
    program = cxx.compile([tmp_path / "a.cpp"], tmp_path / "a", ("-std=c++14", "-trigraphs", "-Wall", "-Werror"))
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"".join(raw)


def tcl_value(word: str) -> str:
    """What Tcl reads from a quoted word; it must be one, without a substitution."""
    found = re.fullmatch(r'"((?:[^\\\]\["${};]|\\[^A-Za-z0-9]|\\u[0-9a-f]{4})*)"', word)
    assert found and word.isascii() and word.isprintable(), word
    units = re.sub(r"\\(u[0-9a-f]{4}|.)", lambda escape: chr(int(escape[1][1:], 16)) if len(escape[1]) == 5 else escape[1], found[1])
    return units.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(TEXT)
def test_a_tcl_word_is_the_text(text):
    assert tcl_value(foreign.tcl(text)) == text
    if find_spec("_tkinter"):                   # and Tcl itself says the same, of what its strings can hold
        from tkinter import Tcl
        text = text.replace("\0", "").encode("utf-8", "replace").decode()
        assert Tcl().eval(f"set x {foreign.tcl(text)}; set x") == text


# ---------------------------------------------------------------- templates

def test_bare_text_in_a_template_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "data_dir", lambda name: tmp_path)
    (tmp_path / "a.j2").write_text("{{ x }}")
    assert render.render("a.j2", x=3) == "3"
    with pytest.raises(TypeError, match="'three' without a filter"):
        render.render("a.j2", x="three")
    with pytest.raises(jinja2.UndefinedError):
        render.render("a.j2")
    (tmp_path / "b.j2").write_text("{{ x | comment }} {{ x | c_string }} {{ x | tcl }}")
    assert render.render("b.j2", x="a\n$") == 'a(U+000A)$ "a\\012$" "a\\u000a\\$"'
    (tmp_path / "page.html.j2").write_text("<p title=\"{{ x }}\">{{ x }}</p>")
    assert render.render("page.html.j2", x="\"<b>\x1b\udcff") == '<p title="&#34;&lt;b&gt;(U+001B)(U+DCFF)">&#34;&lt;b&gt;(U+001B)(U+DCFF)</p>'


# expressions of the templates that are text of hwgen itself: numbers in a form, C++ of a step, comments of the tables; lists of names that
# the reader of a family has looked at (tests/test_family.py tries to get a command through)
OWN = {"processor.options()", "processor.properties(clock_mhz)", "register.doc", "period_ns", "clock_mhz", "tasks", "table.comment", "input_scale",
       "output.scale", "scale", "built", 'row | join(", ")', "step.call", '"{"', '"}"', '"{{"', '"}, {"', '"}}},"', '"s"',
       'function.ends[0] | join(", ")', 'function.ends[1] | join(", ")'}
OF_CORES = {"about", "calls", "cells.bram36", "cells.dsp", "cells.ff", "cells.lut", "command", "header", "largest", "mean", "port.name",
            'sources | join(", ")', "top", "type", "value"}         # names are those of hwgen's templates, parameters numbers or of a list
FORMS = r'\("[^"]*" % [a-z_.0-9]+\)|"\{:,\}"\.format\([a-z_.0-9]+\)|"%\.3g" \| format\([a-z_.]+\)'


def test_every_template_says_for_each_text_where_it_stands():
    names = {path: re.sub(r"\{% raw %\}.*?\{% endraw %\}", "", path.read_text()) for path in sorted(data_dir("templates").rglob("*.j2"))}
    assert len(names) > 10
    filtered = 0
    for path, text in names.items():
        for expression in re.findall(r"\{\{ (.*?) \}\}", text):
            value, _, kind = expression.partition(" if ")[0].rpartition(" | ")
            if path.name.endswith(".html.j2"):
                assert "|" not in expression, f"{path.name}: {expression}: a page is escaped as a whole"
            elif kind == "code":
                own = OWN | OF_CORES if path.parent.name == "cores" else OWN
                assert value in own or re.fullmatch(FORMS, value), f"{path.name}: {expression}: is this text of hwgen's own?"
            filtered += kind in render.FILTERS
    assert filtered > 40


# ---------------------------------------------------------------- a whole build

@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> api.Accelerator:
    """RTL and HLS of a network whose every name is an attack, from a file and for a board whose names are attacks too."""
    folder = tmp_path_factory.mktemp("hostile")
    net = onnx_nets.vit()
    model = net.model({OUTPUT: onnx_nets.result(net)})
    rename = {model.graph.input[0].name: INPUT}
    for i, node in enumerate(model.graph.node):
        node.name = f"{i} {NODE}"
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [name if name == OUTPUT else rename.setdefault(name, f"{i}{NODE}") for name in node.output]
    model.graph.input[0].name = INPUT
    (folder / f"{FILE}.onnx").write_bytes(model.SerializeToString())
    board = yaml.safe_load((data_dir("boards") / "zcu104.yaml").read_text())
    board |= {"fifo_kb": 16, "name": f"z\n{PWN}", "title": OUTPUT, "part": f"x]\n[exec touch PWNED] $y \"{PWN}"}
    (folder / "board.yaml").write_text(yaml.safe_dump(board, allow_unicode=False))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    images = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    return api.compile(folder / f"{FILE}.onnx", target=folder / "board.yaml", calib={INPUT: images}, out=folder / "build", array=(8, 8),
                       backend="both")


def texts(acc: api.Accelerator) -> dict[str, str]:
    """Every text file of a build but those of JSON, which quotes by itself."""
    endings = {".h", ".hpp", ".cpp", ".sv", ".f", ".vlt", ".txt", ".tcl", ".md"}
    return {str(path.relative_to(acc.build.path)): path.read_text() for path in sorted(acc.build.path.rglob("*")) if path.suffix in endings}


def test_no_line_of_a_generated_file_is_the_strangers(hostile):
    seen = set()
    for name, text in texts(hostile).items():
        for line in text.splitlines():
            if "PWNED" in line:
                seen.add(name)
                assert re.match(r"\s*(//|/\*| \*|#define HWGEN_NETWORK \"|# |\d+ |Generated by|set (part|board) \"|open_solution|set_part \"|"
                                r"constexpr|[a-z_]+\(.*values::|.*values::)", line), f"{name}: {line}"
                assert line.isprintable() and "\n" not in line
        assert "\x1b" not in text and "\u202e" not in text, name
    assert {"driver/hwgen.h", "program.txt", "hls/hwgen_program.hpp", "hls/scripts/vitis_hls.tcl", "hls/scripts/vivado.tcl",
            "hls/driver/host.cpp", "hls/README.md"} <= seen


@pytest.mark.parametrize("flags", [("-std=c++14",), ("-std=c++14", "-trigraphs"), ("-x", "c", "-std=c99", "-Wextra")], ids=" ".join)
def test_the_driver_compiles_without_a_warning(hostile, tmp_path, flags):
    (tmp_path / "a.cpp").write_text('#include "hwgen.h"\n#include <stdio.h>\nint main(void) { fputs(HWGEN_NETWORK, stdout); return 0; }\n')
    out = tmp_path / "a"
    subprocess.run(["g++" if "c" not in flags else "gcc", *flags, "-Wall", "-Werror", "-Wno-unused-function",
                    f"-I{hostile.build.path / 'driver'}", "-o", out, tmp_path / "a.cpp"], check=True)
    assert subprocess.run([out], capture_output=True, cwd=tmp_path, check=True).stdout == FILE.encode("utf-8", "surrogateescape")
    assert [path.name for path in tmp_path.glob("PWNED")] == []


def test_the_scripts_hold_the_names_as_words(hostile):
    scripts = hostile.build.path / "hls" / "scripts"
    words = {}
    for name in ("vivado.tcl", "vitis_hls.tcl"):
        lines = (scripts / name).read_text().splitlines()
        assert lines[0].startswith("# a(U+000A)exec touch PWNED(U+000A)# <script>alert(1) (U+DCFF) (U+007B): ") and not lines[0].endswith("\\")
        commands = (re.match(r'(set part|set board|set_part|open_solution -reset) (".*")', line) for line in lines)
        words |= {found[1]: tcl_value(found[2]) for found in commands if found}
    part = f"x]\n[exec touch PWNED] $y \"{PWN}"
    assert words == {"set part": part, "set board": f"z\n{PWN}", "set_part": part, "open_solution -reset": f"z\n{PWN}"}


def test_the_hls_project_runs_and_the_outputs_keep_their_names(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(1).standard_normal((2, *hostile.inputs[INPUT])).astype(np.float32)
    result = hostile.simulate({INPUT: images}, engine="csim")
    assert result.bit_exact and list(result.outputs) == [OUTPUT]
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_a_report(hostile):
    page = hostile.page()
    assert page.count("<script>") == 1 and "\x1b" not in page and page.encode()
    assert (hostile.build.path / "report.json").read_bytes().isascii()
