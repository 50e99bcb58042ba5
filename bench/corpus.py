"""What becomes of a folder of ONNX files: ``python bench/corpus.py FOLDER… [--inputs inputs.json] [--json FILE] [--rtl]``.

Every file goes through `hwgen check` and `hwgen compile` as a user types them. Counted are the files that are taken; silently wrong: taken,
but an output of the float network differs from onnxruntime's, which is asked again here, with other images than the compiler's; traceback: an
exit code that is none of a refusal, a Python traceback, or more than the time limit; check is not compile: another exit code or another
message. Exit code 1 when one of the last three is not 0.

inputs.json: {file name: {"inputs": [{"name", "shape", "kind": "noise" | "noise, float16" | "image" | "uint8 pixels" | "ids below N"}]}}. With it, files with
dynamic shapes are given shapes, 32 images calibrate, and the integer network is run on 8 others: its cosine with onnxruntime is taken over
all of them, the smallest of the outputs is printed, and of routers how many decisions are others than the float network's. Files that have no
entry are calibrated with noise, and are judged as float networks only.
Files with the same integer outputs for one image are listed. With ``--rtl`` one of the 8 images runs through the RTL (Verilator, random stalls) too, and every word has to be the integer model's: at the
end, on as few engines as hold all the networks.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
import hashlib
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim"), str(ROOT / "tests")]

import hwgen
from hwgen import hostrun
from hwgen.engine import EngineConfig, covering
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import CapacityError
from hwgen.graph import evaluate
from hwgen.partition import import_parts
from hwgen.steps import golden
import native_builds

CALIBRATION, IMAGES = 32, 8
MIN_COSINE, MAX_ERROR = 0.99999, 1e-3
TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}          # where onnxruntime's names are not numpy's


def command(*words: object, limit: float) -> tuple[int, str]:
    """(exit code, error message without stage lines and paths of builds) of ``hwgen WORDS``; -1 when it takes longer than ``limit`` seconds."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:3])}
    try:
        done = subprocess.run([sys.executable, "-m", "hwgen", *map(str, words)], env=env, capture_output=True, text=True, check=False,
                              timeout=limit)
    except subprocess.TimeoutExpired:
        return -1, "no end"
    found = re.search(r"^error: .*", done.stderr, re.DOTALL | re.MULTILINE)
    return done.returncode, "Traceback" if "Traceback" in done.stderr else found[0].strip() if found else ""


def values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One image: noise is standard normal, an image has blocks of 4x4 and noise on top, as uint8 around 127; ids are whole numbers."""
    if kind.startswith("ids below"):
        return rng.integers(0, int(kind.split()[-1]), shape)
    if kind.startswith("noise"):
        return rng.standard_normal(shape).astype(np.float16 if "float16" in kind else np.float32)
    last = shape[-1] <= 4 < shape[-2]                               # channels last
    planes = (*shape[:-3], shape[-1], *shape[-3:-1]) if last else shape
    blocks = rng.standard_normal((*planes[:-2], -(-planes[-2] // 4), -(-planes[-1] // 4))).repeat(4, -1).repeat(4, -2)
    image = 0.8 * blocks[..., :planes[-2], :planes[-1]] + 0.5 * rng.standard_normal(planes)
    image = np.moveaxis(image, -3, -1) if last else image
    return np.clip(127 + 50 * image, 0, 255).astype(np.uint8) if "uint8" in kind else image.astype(np.float32)


def data(inputs: list[dict]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images that calibrate, and images that judge: {input name: array [images, ...]}."""
    rng = np.random.default_rng(5)
    drawn = {entry["name"]: np.stack([values(entry["kind"], tuple(entry["shape"][1:]), rng) for _ in range(CALIBRATION + IMAGES)])
             for entry in inputs}
    return {name: array[:CALIBRATION] for name, array in drawn.items()}, {name: array[CALIBRATION:] for name, array in drawn.items()}


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    """1.0 for two zeros."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else float(not a.any() and not b.any())


def integers(path: Path, build: Path, images: dict[str, np.ndarray]) -> dict:
    """The integer network against onnxruntime: cosine, the worst output's, over all images and of the worst image; of routers how many decisions
    are others than the float network's."""
    accelerator, session = hwgen.load(build), _session(path)
    found = accelerator.simulate(images, engine="golden").outputs
    runs = [session.run(list(found), {name: array[i:i + 1] for name, array in images.items()}) for i in range(IMAGES)]
    right = {name: np.stack([run[place][0] for run in runs]) for place, name in enumerate(found)}
    row = {"integer cosine": min(cosine_of(found[name], right[name]) for name in found),
           "worst image": min(cosine_of(found[name][i], right[name][i]) for name in found for i in range(IMAGES))}
    if routers := accelerator.router_flips(images, model=path):
        row |= {"flips": sum(router.flips for router in routers), "decisions": sum(router.decisions for router in routers)}
    build = accelerator.build
    first, = (array[:1] for array in (hostrun.before(build.host, images) if build.host else images).values())
    words = hashlib.sha256()
    for network in build.model.tasks:
        words.update(b"".join(found.tobytes() for found in golden.run(network, first).values()))
    return row | {"words": words.hexdigest()}


def on_few_engines(builds: dict[str, tuple[Path, dict[str, np.ndarray]]], folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """(file, engine, words that differ, cycles) of one image of each build through the RTL; builds: file -> (build, images)."""
    loaded = {name: hwgen.load(build).build for name, (build, _) in builds.items()}
    groups: list[tuple[EngineConfig, list[str]]] = []
    for name, build in loaded.items():
        for place, (config, names) in enumerate(groups):
            try:
                groups[place] = covering((config, build.need_rtl().config)), [*names, name]
                break
            except CapacityError:
                continue
        else:
            groups.append((build.need_rtl().config, [name]))
    for number, (config, names) in enumerate(groups):
        sizes = {"ti": config.ti, "to": config.to, "axi_data_bits": config.axi_data_bits, "packed": config.packed,
                 "load_columns": config.load_columns, "fifo_beats": config.fifo_beats}
        engine = native_builds.Engine(folder / str(number), **sizes)
        for name in names:
            build, images = loaded[name], {key: array[:1] for key, array in builds[name][1].items()}
            (frame,) = (hostrun.before(build.host, images) if build.host else images).values()
            tasks = list(range(len(build.model.tasks)))
            frames = frame.repeat(len(tasks), axis=0)
            run = engine.run(schedule(build.model, **sizes, engine=config), build.model, frames, tasks, native_builds.STALLED)
            yield name, number, native_builds.differences(run, build.model, frames, tasks), run.cycles


def _session(file: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"])


def difference(path: Path, shapes: dict[str, tuple[int, ...]] | None, kinds: dict[str, str]) -> tuple[float, float]:
    """(smallest cosine, largest error over the largest value) of the outputs of the float network to onnxruntime's, of a quantized file to
    the float network in it: `integers` compares with the file itself."""
    imported, rng = import_parts(path, shapes, True, lambda stage: None), np.random.default_rng(5)
    host = imported.host
    session = _session(imported.float_file or path)                # of a quantized or 16 bit file the float32 network in it
    types = {node.name: TYPES.get(node.type, node.type[len("tensor("):-1]) for node in session.get_inputs()}
    names, cosine, error = [output.name for output in session.get_outputs()], 1.0, 0.0
    for graph, origin in zip(imported.model.tasks, imported.origins, strict=True):
        given = {value.name: value.shape for value in host.inputs} if host else graph.inputs
        images = {name: np.stack([values(kinds.get(name, "noise"), shape, rng) for _ in range(IMAGES)]) for name, shape in given.items()}
        task = {} if origin.task is None else {origin.task["name"]: np.full(origin.task["shape"], origin.task["value"], origin.task["dtype"])}
        runs = [dict(zip(names, session.run(None, {k: v[i:i + 1].astype(types[k]) for k, v in images.items()} | task), strict=True))
                for i in range(IMAGES)]
        read = evaluate.run(graph, hostrun.before(host, images)) if host else evaluate.run(graph, images)
        for name, found in (hostrun.after(host, read) if host else read).items():
            a = np.stack([run[name].ravel() for run in runs]).astype(np.float64)
            b = found.reshape(a.shape).astype(np.float64)
            cosine = min(cosine, cosine_of(a, b))
            error = max(error, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return cosine, error


def judge(path: Path, facts: dict, limit: float, folder: Path) -> dict:
    """What happened to one file; its build is ``folder / "build"``."""
    inputs = facts.get(path.name, {}).get("inputs", [])
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in inputs}
    options, build, images = [], folder / "build", {}
    if inputs:
        calibration, images = data(inputs)
        np.savez(folder / "calibration.npz", **calibration)
        options = ["--calib", str(folder / "calibration.npz")]
    code, text = command("check", path, *options, limit=limit)
    given = "is not fixed" in text and shapes                  # a dynamic shape: given as a user would
    if given:
        options += [f"--shape={name}={'x'.join(map(str, shape))}" for name, shape in shapes.items()]
        code, text = command("check", path, *options, limit=limit)
    hosted = "--allow-host" in text                              # more than the host takes unasked: said so, and asked for
    if hosted:
        options.append("--allow-host")
        code, text = command("check", path, *options, limit=limit)
    compiled = command("compile", path, "-o", build, "--array", "8x8", *options, limit=limit)
    row = {"file": str(path), "check": code, "compile": compiled[0], "message": text, "allow_host": hosted, "same": (code, text) == compiled,
           "traceback": any(c not in (0, 1, 2) or t == "Traceback" for c, t in ((code, text), compiled)), "wrong": False}
    if compiled[0] == 0:
        row["cosine"], row["error"] = difference(path, shapes if given else None, {entry["name"]: entry["kind"] for entry in inputs})
        row["wrong"] = row["cosine"] < MIN_COSINE or row["error"] > MAX_ERROR
        if inputs:
            row |= integers(path, build, images)
    return row


def judged(files: list[Path], facts: dict, limit: float, rtl: bool, folder: Path) -> list[dict]:
    """What happened to each file, printed as it is known."""
    rows, builds = [], {}
    for place, path in enumerate(files):
        own = folder / str(place)
        own.mkdir()
        rows.append(row := judge(path, facts, limit, own))
        marks = "".join(f"  {name.upper()}" for name, bad in (("wrong", row["wrong"]), ("traceback", row["traceback"]),
                                                               ("check is not compile", not row["same"])) if bad)
        more = "".join(f", {name} {row[name]:.5f}" for name in ("integer cosine", "worst image") if name in row)
        more += "" if "flips" not in row else f", {row['flips']} of {row['decisions']} router decisions flipped"
        shown = f"taken, cosine {row['cosine']:.7f}{more}" if row["compile"] == 0 else (row["message"].splitlines() or [""])[0][:150]
        print(f"{path.parent.name}/{path.name}: {row['compile']} {shown}{marks}", flush=True)
        if rtl and "integer cosine" in row:
            builds[str(path)] = own / "build", data(facts[path.name]["inputs"])[1]
    alike = Counter(row["words"] for row in rows if "words" in row)
    for words in (words for words, count in alike.items() if count > 1):
        print(f"the same integer outputs, bit for bit: {', '.join(Path(row['file']).name for row in rows if row.get('words') == words)}", flush=True)
    by_file = {row["file"]: row for row in rows}
    for name, engine, differing, cycles in on_few_engines(builds, folder):
        by_file[name] |= {"rtl": differing == 0, "engine": engine, "cycles": cycles, "wrong": by_file[name]["wrong"] or differing > 0}
        print(f"{Path(name).name}: engine {engine}, {cycles} cycles, RTL {'equal' if differing == 0 else f'NOT EQUAL in {differing} words'}", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders, or single files")
    parser.add_argument("--inputs", type=Path, help="shapes and kinds of inputs by file name")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=float, default=600, help="seconds a command may take")
    parser.add_argument("--rtl", action="store_true", help="run one image through the RTL too")
    args = parser.parse_args()
    facts = json.loads(args.inputs.read_text()) if args.inputs else {}
    files = sorted({path for folder in args.folders for path in ([folder] if folder.is_file() else folder.rglob("*.onnx"))})
    with tempfile.TemporaryDirectory(prefix="hwgen_corpus_") as folder:
        rows = judged(files, facts, args.limit, args.rtl, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    wrong, broken, unlike = (sum(row[key] is value for row in rows) for key, value in (("wrong", True), ("traceback", True), ("same", False)))
    print(f"{len(rows)} files, {sum(row['compile'] == 0 for row in rows)} taken; silently wrong {wrong}, traceback {broken}, "
          f"check is not compile {unlike}")
    return int(wrong + broken + unlike > 0)


if __name__ == "__main__":
    sys.exit(main())
