"""The built wheel works as the checkout does: every module imports from it, every data folder is in it."""

from __future__ import annotations

from importlib.metadata import version
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

import numpy as np
from packaging.requirements import Requirement
import pytest

import onnx_nets

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DATA = {"boards": "**/*.yaml", "templates": "**/*", "rtl/sv": "*", "sim/tb": "**/*", "hls": "**/[!.]*"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by the backend in this environment (no network), from a copy: the backend leaves files behind."""
    base = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    top = {"build", "dist", "examples", "docs"}
    shutil.copytree(ROOT, base / "source", ignore=lambda folder, names: skip(folder, names) | (top & {*names} if Path(folder) == ROOT else set()))
    subprocess.run([sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('..')"],
                   cwd=base / "source", check=True, capture_output=True, timeout=60)
    [path] = base.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel) -> Path:
    with zipfile.ZipFile(wheel) as file:
        file.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def test_only_our_packages_land_in_site_packages(site):
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} == {"hwgen", "hwgen_rtl", "hwgen_sim"}


@pytest.mark.parametrize("folder", DATA)
def test_data_folders_are_in_the_wheel(site, folder):
    names = {p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).glob(DATA[folder])
             if p.is_file() and "__pycache__" not in p.parts}
    assert names and names == {p.relative_to(site / "hwgen/_data" / folder).as_posix()
                               for p in (site / "hwgen/_data" / folder).rglob("*") if p.is_file()}


def test_every_module_is_in_the_wheel(site):
    for package, base in (("hwgen", ROOT), ("hwgen_rtl", ROOT / "rtl"), ("hwgen_sim", ROOT / "sim")):
        ours = {p.relative_to(base).as_posix() for p in (base / package).rglob("*.py")}
        assert ours and ours <= {p.relative_to(site).as_posix() for p in (site / package).rglob("*.py")}


def test_the_wheel_runs(site, tmp_path):
    code = ("import sys; sys.path.insert(0, sys.argv.pop(1)); import hwgen, hwgen_rtl, hwgen_sim\n"
            "assert all(m.__file__.startswith(sys.path[0]) for m in (hwgen, hwgen_rtl, hwgen_sim)), hwgen.__file__\n"
            "from hwgen.paths import data_dir\n"
            "assert str(data_dir('boards')).startswith(sys.path[0])\n"
            "from hwgen.cli import main; main(['targets'])\n")
    done = subprocess.run([sys.executable, "-I", "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False,
                          timeout=60)
    assert done.returncode == 0 and "zcu104" in done.stdout, done.stderr


def test_metadata(site):
    [info] = site.glob("*.dist-info")
    metadata = (info / "METADATA").read_text()
    assert f"Version: {info.name.split('-')[1].removesuffix('.dist')}" in metadata and "License-Expression: Apache-2.0" in metadata
    assert "hwgen = hwgen.cli:main" in (info / "entry_points.txt").read_text()
    assert (info / "licenses" / "LICENSE").is_file()


def test_the_lock_pins_every_dependency_inside_its_range():
    lock = {line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()} - {""}
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lock)
    pins = dict(line.split("==") for line in lock)
    project = PYPROJECT["project"]
    ranges = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["sim"])]
    for wanted in ranges:
        assert wanted.specifier.contains(pins[wanted.name]), wanted
        assert {part.operator for part in wanted.specifier} == {">=", "<"}, f"{wanted}: a wheel needs a range"
        assert version(wanted.name) in wanted.specifier
    assert {*project["optional-dependencies"]["test"], *PYPROJECT["build-system"]["requires"]} <= lock


def test_the_lock_of_the_checks_pins_what_they_need():
    lock = {line.split("#")[0].strip() for line in (ROOT / "requirements-dev.txt").read_text().splitlines()} - {""}
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lock)
    assert {line.lower() for line in PYPROJECT["project"]["optional-dependencies"]["dev"]} <= lock


def test_the_types_are_in_the_wheel(site):
    assert (site / "hwgen" / "py.typed").is_file()


def test_the_wheel_says_the_ranges(site):
    [info] = site.glob("*.dist-info")
    said = {Requirement(line.split(": ", 1)[1]) for line in (info / "METADATA").read_text().splitlines() if line.startswith("Requires-Dist: ")}
    assert {Requirement(line) for line in PYPROJECT["project"]["dependencies"]} <= said


@pytest.fixture(scope="module")
def editable(tmp_path_factory) -> Path:
    """A site folder with the editable wheel of a copy of the checkout, and beside it ``work/hwgen``, the copy."""
    base = tmp_path_factory.mktemp("editable")
    skip, top = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"), {"build", "dist", "examples", "docs"}
    shutil.copytree(ROOT, base / "work" / "hwgen",
                    ignore=lambda folder, names: skip(folder, names) | (top & {*names} if Path(folder) == ROOT else set()))
    subprocess.run([sys.executable, "-c", "from setuptools import build_meta; build_meta.build_editable('../..')"],
                   cwd=base / "work" / "hwgen", check=True, capture_output=True, timeout=60)
    [path] = base.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        file.extractall(base / "site")
    return base


@pytest.mark.parametrize("folder", ["work", "work/hwgen", "site"])
def test_an_editable_install_is_imported_from_any_folder(editable, folder):
    """Also from the one that holds a clone called ``hwgen``."""
    code = ("import site, sys; site.addsitedir(sys.argv.pop(1)); sys.path.append(sys.argv.pop(1)); sys.path.insert(0, '')\n"
            "import hwgen, hwgen_rtl, hwgen_sim\n"
            "print(hwgen.__file__, hwgen_rtl.__file__, hwgen_sim.__file__, callable(hwgen.compile))\n")
    # -S: the environment of this test has an editable install of its own; its packages come without it
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, editable / "site", sysconfig.get_path("purelib")],
                          cwd=editable / folder, capture_output=True, text=True, check=False, timeout=60)
    clone = editable / "work" / "hwgen"
    wanted = (clone / "hwgen", clone / "rtl" / "hwgen_rtl", clone / "sim" / "hwgen_sim")
    assert done.stdout == f"{' '.join(str(path / '__init__.py') for path in wanted)} True\n", done.stderr


def test_icarus_runs_from_the_wheel(site, tmp_path):
    """Compile and simulate where there is no checkout; the bench lies in the wheel."""
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed")
    net = onnx_nets.vit()
    net.save(tmp_path / "m.onnx", {"y": onnx_nets.result(net)})
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32))

    def hwgen(*args):
        code = f"import sys, hwgen; assert hwgen.__file__.startswith({str(site)!r}); from hwgen.cli import main; main(sys.argv[1:])"
        done = subprocess.run([sys.executable, "-P", "-c", code, *args], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)},
                              capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    hwgen("compile", "m.onnx", "--array", "8x8", "--calib", "x.npz", "-o", "b")
    hwgen("simulate", "b", "--input", "x.npz", "--engine", "icarus", "--json", "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["bit_exact"] is True and result["cycles_per_image"] > 100 and result["words"] == onnx_nets.CLASSES


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    part = text[text.index("\ndependencies"):text.index("[project.scripts]")]
    lines = [line for line in part.splitlines() if line.startswith('    "')]
    assert len(lines) > 15 and all(re.search(r'",\s+# \w.{10,}', line) for line in lines)


TOOLS = ("sh", "c++", "make", "perl", "iverilog", "id", "apt-get")


def system_tools(folder: Path, python=sys.executable, *words: str, user=1000, apt="exit 1", **scripts: str) -> subprocess.CompletedProcess:
    """Runs scripts/system-tools where only these tools exist: all do nothing, but those with a script; "" for a missing one."""
    scripts = {"id": f"echo {user}", "apt-get": apt} | scripts
    for tool in TOOLS:
        if tool == "sh":
            (folder / tool).symlink_to("/bin/sh")
        elif scripts.get(tool) != "":
            (folder / tool).write_text(f"#!/bin/sh\n{scripts.get(tool, 'exit 0')}\n")
            (folder / tool).chmod(0o755)
    return subprocess.run(["/bin/sh", ROOT / "scripts" / "system-tools", python, *words], env=os.environ | {"PATH": str(folder)},
                          capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("missing, package", [
    ({"iverilog": ""}, "iverilog"), ({"c++": ""}, "g++"), ({"perl": ""}, "perl"),
    ({"c++": "read -r line; case $line in *lz4*) exit 1;; esac"}, "liblz4-dev"),
    ({"c++": "read -r line; case $line in *zlib*) exit 1;; esac"}, "zlib1g-dev")], ids=lambda x: x if isinstance(x, str) else "")
def test_a_missing_system_tool_is_named_with_the_line_to_type(tmp_path, missing, package):
    done = system_tools(tmp_path, **missing)
    assert done.returncode == 3
    assert f"error: these tools are missing: {package}\n" in done.stderr
    assert f"  next: sudo apt-get update && sudo apt-get install -y {package}\n" in done.stderr


def test_nothing_missing_is_silent(tmp_path):
    done = system_tools(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_root_installs_what_is_missing(tmp_path):
    done = system_tools(tmp_path, user=0, apt='echo "apt-get $*" >> "$0.log"', iverilog="", perl="")
    assert done.returncode == 0 and "installing with apt-get: perl iverilog" in done.stdout
    update, install = (tmp_path / "apt-get.log").read_text().splitlines()
    assert update.startswith("apt-get update") and install.endswith(" perl iverilog") and " install " in install and " -y " in install


def test_a_failing_installation_says_what_to_type(tmp_path):
    done = system_tools(tmp_path, user=0, iverilog="")
    assert done.returncode == 3 and "apt-get could not install: iverilog" in done.stderr and "apt-get install -y iverilog" in done.stderr


@pytest.mark.parametrize("apt", ["exit 0", "exit 1"], ids=["installed", "not to be had"])
def test_ccache_is_installed_where_it_can_be(tmp_path, apt):
    done = system_tools(tmp_path, sys.executable, "ccache", user=0, apt=apt)
    assert done.returncode == 0 and "installing with apt-get: ccache" in done.stdout


def test_ccache_is_not_asked_of_a_user(tmp_path):
    done = system_tools(tmp_path, sys.executable, "ccache")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_python_is_refused(tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(["/bin/sh", ROOT / "scripts" / "system-tools", tmp_path / "python"], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 3 and "is not Python 3.11 or newer" in done.stderr
