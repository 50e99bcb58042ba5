"""Edited build directories, as somebody hostile or a failing disk leaves them: one message with exit code 2, or no effect.

Every edit runs on a copy, with the digests of the manifest made right again where that is not the point. Looked at are `load`, the
report (terminal and HTML) and a run of the integer model, within seconds and 1.5 GB; nothing of the build may be executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
import pickle
import resource
import shutil
import signal

import numpy as np
import pytest
from rich.console import Console

from build_edits import (
    HUGE,
    PASSWD,
    Evil,
    compressed,
    digest_of,
    every,
    factors,
    fifo,
    file,
    header,
    link,
    linked_folder,
    manifest,
    member,
    nested,
    npy,
    resign,
    sparse,
    steps,
    tensors,
)
from hwgen import api, report
from hwgen.build import directory
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import BuildVersionError, HwgenError, InputError
from hwgen.output import write_json
import native_builds
from qgraphs import random_images, random_model, random_qgraph

OPTIONS = {"seed": 3, "blocks": "dm", "classes": (4, 9)}
MEMORY, SECONDS = 3 << 29, 20
REFUSED = (BuildVersionError, InputError)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    model = random_qgraph(**OPTIONS)
    path = tmp_path_factory.mktemp("good") / "b"
    return native_builds.write(path, model, schedule(model, ti=16, to=8, axi_data_bits=128)).path


REFUSALS = {
    "no manifest": lambda b: (b / "manifest.json").unlink(),
    "manifest: []": lambda b: (b / "manifest.json").write_text("[]"),
    "manifest: link": lambda b: ((b / "manifest.json").rename(b.parent / "m"), (b / "manifest.json").symlink_to(b.parent / "m")),
    "manifest: no files": manifest(lambda m: m.pop("files")),
    "manifest: files is a list": manifest(lambda m: m.update(files=["a"])),
    "manifest: files empty": manifest(lambda m: m.update(files={})),
    "manifest: digest is a number": manifest(lambda m: m["files"].update({"program.bin": 3})),
    "manifest: lists ../../etc/passwd": manifest(lambda m: m["files"].update({PASSWD: digest_of("/etc/passwd")})),
    "manifest: lists rtl/../program.bin": manifest(lambda m: m["files"].update({"rtl/../program.bin": m["files"]["program.bin"]})),
    "manifest: lists /etc/passwd": manifest(lambda m: m["files"].update({"/etc/passwd": digest_of("/etc/passwd")})),
    "manifest: lists /dev/zero": manifest(lambda m: m["files"].update({"/dev/zero": "0"})),
    "manifest: lists a file hwgen does not write": manifest(lambda m: m["files"].update({"hls/cstdint": "0"})),
    "manifest: NUL in a name": manifest(lambda m: m["files"].update({"a\0b": "0"})),
    "manifest: lone surrogate in a name": manifest(lambda m: m["files"].update({"\ud800": "0"})),
    "manifest: newline behind a name": manifest(lambda m: m["files"].update({"rtl/waivers.vlt\n": "0"})),
    "manifest: name of 10,000 characters": manifest(lambda m: m["files"].update({"a" * 10000: "0"})),
    "manifest: 100,000 brackets": lambda b: (b / "manifest.json").write_text("[" * 100000),
    "manifest: number of 10,000 digits": lambda b: (b / "manifest.json").write_text('{"a": ' + "9" * 10000 + "}"),
    "manifest: not UTF-8": lambda b: (b / "manifest.json").write_bytes(b"\xff\xfe{}"),
    "manifest: version is a record": manifest(lambda m: m.update(version={"a": 1})),
    "manifest: program missing": manifest(lambda m: m.pop("program")),
    "manifest: program is a list": manifest(lambda m: m.update(program=[])),
    "manifest: engine without a key": manifest(lambda m: m["engine"].popitem()),
    "manifest: engine is null": manifest(lambda m: m.update(engine=None)),
    "manifest: engine ti = 10**9": manifest(lambda m: m["engine"].update(ti=10 ** 9)),
    "manifest: engine ti = '8'": manifest(lambda m: m["engine"].update(ti="8")),
    "manifest: engine to = 0": manifest(lambda m: m["engine"].update(to=0)),
    "manifest: engine packed = 1": manifest(lambda m: m["engine"].update(packed=1)),
    "manifest: engine axi_data_bits = 0": manifest(lambda m: m["engine"].update(axi_data_bits=0)),
    "manifest: clock_mhz = 0": manifest(lambda m: m.update(clock_mhz=0)),
    "manifest: clock_mhz = 'x'": manifest(lambda m: m.update(clock_mhz="x")),
    "manifest: clock_mhz = NaN": manifest(lambda m: m.update(clock_mhz=float("nan"))),
    "manifest: bytes_per_cycle = -1": manifest(lambda m: m.update(bytes_per_cycle=-1)),
    "manifest: a note with half a character": manifest(lambda m: m["program"]["notes"].__setitem__(0, "\ud800")),
    "manifest: target = []": manifest(lambda m: m.update(target=[])),
    "manifest: batch = 0": manifest(lambda m: m["program"].update(batch=0)),
    "manifest: batch = 2": manifest(lambda m: m["program"].update(batch=2)),
    "manifest: batch = true": manifest(lambda m: m["program"].update(batch=True)),
    "manifest: input_bytes = 10**12": manifest(lambda m: m["program"].update(input_bytes=10 ** 12)),
    "manifest: input_bytes = 16": manifest(lambda m: m["program"].update(input_bytes=16)),
    "manifest: output_bytes = 32": manifest(lambda m: m["program"].update(output_bytes=32)),
    "manifest: no inputs": manifest(lambda m: m.update(inputs={})),
    "manifest: two inputs": manifest(lambda m: m["inputs"].update(y=[1])),
    "manifest: input shape [0]": manifest(lambda m: m.update(inputs={"x": [0]})),
    "manifest: input of 10**12 values": manifest(lambda m: m.update(inputs={"x": [10 ** 6, 10 ** 3, 10 ** 3]})),
    "manifest: another input shape": manifest(lambda m: m.update(inputs={"x": [1, 2, 18]})),
    "manifest: outputs empty": manifest(lambda m: m["program"].update(outputs=[])),
    "manifest: outputs of a task empty": manifest(lambda m: m["program"].update(outputs=[[], []])),
    "manifest: output renamed": manifest(lambda m: m["program"]["outputs"][0][0].update(name="other")),
    "manifest: output of 10**9 channels": manifest(lambda m: m["program"]["outputs"][0][0].update(channels=10 ** 9)),
    "manifest: output step 0": manifest(lambda m: m["program"]["outputs"][0][0].update(step=0)),
    "manifest: output far behind the end": manifest(lambda m: m["program"]["outputs"][0][0].update(word=10 ** 8)),
    "manifest: infos shorter": manifest(lambda m: m["program"].update(infos=m["program"]["infos"][:1])),
    "manifest: infos of negative work": manifest(lambda m: every(m["program"]["infos"], ["macs"], -1)),
    "manifest: notes longer": manifest(lambda m: m["program"].update(notes=m["program"]["notes"] * 9)),
    "manifest: notes are numbers": manifest(lambda m: m["program"].update(notes=[1] * len(m["program"]["notes"]))),
    "manifest: buffers are numbers": manifest(lambda m: m["program"].update(buffers=[1])),
    "model.npz: truncated, unsigned": file("model.npz", lambda d: d[:len(d) // 2], sign=False),
    "model.npz: truncated": file("model.npz", lambda d: d[:len(d) // 2]),
    "model.npz: empty": file("model.npz", lambda d: b""),
    "model.npz: pickled object": member("a0.npy", lambda d: npy(np.array([Evil()], object), allow_pickle=True)),
    "model.npz: is a pickle": file("model.npz", lambda d: pickle.dumps(Evil())),
    "model.npz: 1 GB, compressed": file("model.npz", compressed),
    "model.npz: array of 2**60": member("a0.npy", lambda d: HUGE),
    "model.npz: params = 10**12": header(lambda h: h.update(params=10 ** 12)),
    "model.npz: params renamed": header(lambda h: h.update(params=[f"{name}'" for name in h["params"]])),
    "model.npz: params of one name": header(lambda h: h.update(params=h["params"][:1] * len(h["params"]))),
    "model.npz: params in another order": header(lambda h: h["params"].reverse()),
    "model.npz: integers of 10**30": header(lambda h: every(h["model"], ["eps"], 10 ** 30)),
    "model.npz: a multiplier of 2**40": header(lambda h: every(factors(h), ["mult"], 1 << 40)),
    "model.npz: no heads": header(lambda h: [step.update(heads=0) for step in steps(h)]),
    "model.npz: 2**40 heads": header(lambda h: [step.update(heads=1 << 40) for step in steps(h)]),
    "model.npz: 2**40 heads in a tensor": header(lambda h: [tensor.update(heads={"type": "HeadMap", "heads": 1 << 40, "dim": 1 << 40, "group": 1})
                                                            for tensor in tensors(h)]),
    "model.npz: expert 2**40": header(lambda h: every(steps(h), ["index"], 1 << 40)),
    "model.npz: 2**40 experts": header(lambda h: every(steps(h), ["of"], 1 << 40)),
    "model.npz: top 2**40": header(lambda h: every(steps(h), ["top_k"], 1 << 40)),
    "model.npz: tensors of nothing": header(lambda h: every(tensors(h), ["tokens", "channels"], 0)),
    "model.npz: negative tensors": header(lambda h: every(tensors(h), ["tokens", "channels"], -1)),
    "model.npz: 2**40 tokens": header(lambda h: every(tensors(h), ["tokens"], 1 << 40)),
    "model.npz: 2**31 channels": header(lambda h: every(tensors(h), ["channels"], (1 << 31) - 1)),
    "model.npz: views of 2**40 tokens": header(lambda h: every(steps(h), ["count"], 1 << 40)),
    "model.npz: views from 2**40 on": header(lambda h: every(steps(h), ["start"], 1 << 40)),
    "model.npz: views of every 2**40th token": header(lambda h: every(steps(h), ["step"], 1 << 40)),
    "model.npz: tensors in no memory": header(lambda h: every(tensors(h), ["memory"], "disk")),
    "model.npz: tensors in another memory": header(lambda h: every(tensors(h), ["memory"], "out")),
    "model.npz: tensors of other formats": header(lambda h: every(tensors(h), ["format"], "s16")),
    "model.npz: formats of 2**40 bits": header(lambda h: every(h["model"], ["format", "to"], "s1099511627776")),
    "model.npz: a scale of 1e400": header(lambda h: every(tensors(h), ["scale"], 10 ** 400)),
    "model.npz: steps in another order": header(lambda h: steps(h).reverse()),
    "model.npz: no drains": header(lambda h: every(steps(h), ["drain"], [])),
    "model.npz: no sinks": header(lambda h: every(steps(h), ["sinks"], [])),
    "model.npz: no sources": header(lambda h: every(steps(h), ["source_view"], None)),
    "model.npz: outputs empty": header(lambda h: every(h["model"], ["outputs"], [])),
    "model.npz: a function of another kind": header(lambda h: every(steps(h), ["function"], "sine")),
    "model.npz: 900 nested lists": header(nested),
    "model.npz: tasks empty": header(lambda h: h["model"].update(tasks=[])),
    "model.npz: one task": header(lambda h: h["model"]["tasks"].pop()),
    "model.npz: no steps": header(lambda h: h["model"]["tasks"][0].update(steps=[])),
    "model.npz: a type that is a list": header(lambda h: steps(h)[0].update(type=[1])),
    "model.npz: patches of 0": header(lambda h: every(h["model"], ["kernel"], [0, 3])),
    "model.npz: an output of another shape": header(lambda h: every(h["model"], ["shape"], [1, 3, 5])),
    "model.npz: of the first format": header(lambda h: h.update(version=1)),
    "model.npz: a0 of another shape": member("a0.npy", lambda d: npy(np.zeros(3, np.int8))),
    "model.npz: a0 without dimensions": member("a0.npy", lambda d: npy(np.int8(3))),
    "model.npz: a0 as strings": member("a0.npy", lambda d: npy(np.array(["x"]))),
    "model.npz: a0 as floats": member("a0.npy", lambda d: npy(np.zeros(np.lib.format.read_array(io.BytesIO(d)).shape))),
    "program.bin: truncated": file("program.bin", lambda d: d[:len(d) // 2]),
    "program.bin: random": file("program.bin", lambda d: np.random.default_rng(0).bytes(len(d))),
    "program.bin: zeros": file("program.bin", lambda d: bytes(len(d))),
    "weights.bin: truncated": file("weights.bin", lambda d: d[:len(d) // 2 - 1]),
    "weights.bin: one bit, digest of the manifest right": lambda b: (
        (b / "weights.bin").write_bytes(bytes([(b / "weights.bin").read_bytes()[0] ^ 64]) + (b / "weights.bin").read_bytes()[1:]),
        resign(b, "weights.bin")),
    "weights.bin: truncated, unsigned": file("weights.bin", lambda d: d[:len(d) // 2], sign=False),
    "weights.bin: 1 TB of nothing": sparse,
    "report.json: []": file("report.json", lambda d: b"[]"),
    "report.json: garbage": file("report.json", lambda d: b"\xff"),
    "report.json: NaN": file("report.json", lambda d: b'{"a": NaN}'),
    "report.json: 1e999": file("report.json", lambda d: b'{"a": 1e999}'),
    "report.json: lone surrogate": file("report.json", lambda d: b'{"a": "\\ud800"}'),
    "report.json: lone surrogate in UTF-8": file("report.json", lambda d: b'{"a": "\xed\xa0\x80"}'),
    "report.json: an HLS project that is not there": file("report.json", lambda d: b'{"hls": {"lanes": 8, "queries": 1}}'),
    "report.json: limits are texts": file("report.json", lambda d: b'{"limits": {"array_limit_cycles": "1", "memory_limit_cycles": 0}}'),
    "report.json: resources are lists": file("report.json", lambda d: b'{"resources": {"used": [], "available": []}}'),
    "filelist.f: ../../etc/passwd": file("rtl/filelist.f", lambda d: d + f"\n{PASSWD}\n".encode()),
    "filelist.f: an option": file("rtl/filelist.f", lambda d: b"--exe\n" + d),
    "filelist.f: twice": file("rtl/filelist.f", lambda d: d + d),
    "filelist.f: empty": file("rtl/filelist.f", lambda d: b""),
    "filelist.f: not text": file("rtl/filelist.f", lambda d: b"\xff\xfe"),
    "a file is a link": link("program.txt", "/etc/passwd"),
    "a folder is a link": linked_folder,
    "a file is a FIFO": fifo,
    "a file is a folder": lambda b: ((b / "program.txt").unlink(), (b / "program.txt").mkdir()),
    "bench/main.cpp changed": file("bench/main.cpp", lambda d: d + b"static int e = system(\"touch PWNED\");", sign=False),
    "bench/main.cpp dropped from the manifest": lambda b: (manifest(lambda m: m["files"].pop("bench/main.cpp"))(b),
                                                           file("bench/main.cpp", lambda d: b"int main() {}", sign=False)(b)),
}
EFFECTLESS = {
    "report.json: {}": file("report.json", lambda d: b"{}"),
    "report.json: script in a name": file("report.json", lambda d: json.dumps({"network": {"name": "<script>alert(1)</script>[red]"}}).encode()),
    "report.json: an emoji": file("report.json", lambda d: json.dumps({"a": "\U0001f600"}).encode()),
    "report.json: deep": file("report.json", lambda d: b'{"a": ' + b'{"a": ' * 90 + b"1" + b"}" * 91),
    "simulation.json: garbage": lambda b: (b / "simulation.json").write_text("garbage"),
    "simulation.json: not UTF-8": lambda b: (b / "simulation.json").write_bytes(b"\xff"),
    "simulation.json: 100,000 brackets": lambda b: (b / "simulation.json").write_text("[" * 100000),
    "simulation.json: []": lambda b: (b / "simulation.json").write_text("[]"),
    "simulation.json: folder": lambda b: (b / "simulation.json").mkdir(),
    "simulation.json: FIFO": lambda b: os.mkfifo(b / "simulation.json"),
    "simulation.json: link to /dev/zero": lambda b: (b / "simulation.json").symlink_to("/dev/zero"),
    "simulation.json: right digest, no cycles": lambda b: (b / "simulation.json").write_text(json.dumps(
        {"build": hashlib.sha256((b / "manifest.json").read_bytes()).hexdigest()})),
    "simulation.json: right digest, cycles are a text": lambda b: (b / "simulation.json").write_text(json.dumps(
        {"build": hashlib.sha256((b / "manifest.json").read_bytes()).hexdigest(), "simulation": {"cycles_per_image": "9"},
         "stalls": {}, "layers": []})),
    "bench/fast/sim is a script": lambda b: ((b / "bench/fast").mkdir(), (b / "bench/fast/sim").write_text("#!/bin/sh\ntouch PWNED\n"),
                                             (b / "bench/fast/sim").chmod(0o755)),
    "headers beside the bench": lambda b: (b / "bench/vector").write_text("#error PWNED"),
}


def use(b: Path) -> None:
    """What `hwgen report --html` and `hwgen simulate --engine golden` do."""
    acc = api.load(b)
    data = acc.report()
    write_json(b.parent / "r.json", data)
    report.show(data, Console(file=io.StringIO()))
    acc.page()
    images = random_images(random_model(**OPTIONS), 2)
    acc.simulate({"x": images}, engine="golden")


def limited(action, b: Path) -> None:
    """``action(b)`` within `SECONDS` and `MEMORY` more than now."""
    def late(*_):
        raise TimeoutError(f"more than {SECONDS} s")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old, (soft, hard) = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        action(b)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def copy(good, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(good, tmp_path / "b"))


@pytest.mark.parametrize("name", REFUSALS)
def test_a_build_that_hwgen_did_not_write_is_refused(copy, name):
    REFUSALS[name](copy)
    with pytest.raises(HwgenError) as caught:
        limited(use, copy)
    error = caught.value
    assert type(error) in REFUSED and error.exit_code == 2
    assert str(copy) in str(error) and error.hint and len(str(error)) < 1000
    str(error).encode("utf-8")
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("name", EFFECTLESS)
def test_an_edit_without_effect(copy, name):
    EFFECTLESS[name](copy)
    limited(use, copy)
    assert not Path("PWNED").exists()
    if name.startswith("simulation.json"):
        assert "ignored" in api.load(copy).report()["simulation_ignored"]


def test_the_good_build_is_good(copy):
    limited(use, copy)
    assert api.load(copy).report() == {}


def test_only_what_is_listed_is_compiled(copy):
    """A header beside the bench would be found before the system's own: it is not among the sources."""
    from hwgen.run import simulate
    (copy / "driver/vector").write_text("#error PWNED")
    (copy / "rtl/delay.v").write_text("PWNED")
    build = api.load(copy).build
    assert set(simulate.bench_files(build)) == {
        "program.bin", "weights.bin", "bench/main.cpp", *(name for name in build.files if name.startswith(("rtl/", "driver/")))}


def test_a_file_that_changes_after_the_build_was_loaded(copy):
    build = api.load(copy).build
    (copy / "bench/main.cpp").write_text("int main() {}")
    with pytest.raises(BuildVersionError, match="bench/main.cpp is not what hwgen wrote"):
        build.read(["bench/main.cpp"])


def test_every_file_of_a_build_has_a_known_name(good):
    files = json.loads((good / "manifest.json").read_text())["files"]
    assert all(map(directory.known, files))
    assert {p.relative_to(good).as_posix() for p in good.rglob("*") if p.is_file()} == {*files, "manifest.json"}
