"""What becomes of a folder of ONNX files: ``python bench/corpus.py FOLDER… [--inputs inputs.json] [--json FILE]``.

Every file goes through `hwgen check` and `hwgen compile` as a user types them, without calibration images. Counted are the files that are
taken; silently wrong: taken, but an output of the float network differs from onnxruntime's, which is asked again here, with other images
than the compiler's; traceback: an exit code that is none of a refusal, a Python traceback, or more than the time limit; check is not
compile: another exit code or another message. Exit code 1 when one of the last three is not 0.

inputs.json: {file name: {"inputs": [{"name", "shape", "kind": "noise" | "image"}]}}, for files with dynamic shapes and for the images.
"""

from __future__ import annotations

import argparse
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
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim")]

from hwgen.graph import evaluate
from hwgen.importer import import_model

IMAGES = 8
MIN_COSINE, MAX_ERROR = 0.99999, 1e-3


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
    """One image: noise is standard normal, an image has blocks of 4x4 and noise on top."""
    noise = rng.standard_normal(shape)
    if kind != "image":
        return noise.astype(np.float32)
    blocks = rng.standard_normal((*shape[:-2], -(-shape[-2] // 4), -(-shape[-1] // 4))).repeat(4, -1).repeat(4, -2)
    return (0.8 * blocks[..., :shape[-2], :shape[-1]] + 0.5 * noise).astype(np.float32)


def difference(path: Path, shapes: dict[str, tuple[int, ...]] | None, kinds: dict[str, str]) -> tuple[float, float]:
    """(smallest cosine, largest error over the largest value) of the outputs of the float network to onnxruntime's."""
    imported, rng = import_model(path, shapes), np.random.default_rng(5)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names, cosine, error = [output.name for output in session.get_outputs()], 1.0, 0.0
    for graph, origin in zip(imported.model.tasks, imported.origins, strict=True):
        images = {name: np.stack([values(kinds.get(name, "noise"), shape, rng) for _ in range(IMAGES)]) for name, shape in graph.inputs.items()}
        task = {} if origin.task is None else {origin.task["name"]: np.full(origin.task["shape"], origin.task["value"], origin.task["dtype"])}
        runs = [dict(zip(names, session.run(None, {**{k: v[i:i + 1] for k, v in images.items()}, **task}), strict=True))
                for i in range(IMAGES)]
        for name, found in evaluate.run(graph, images).items():
            a = np.stack([run[name].ravel() for run in runs]).astype(np.float64)
            b = found.reshape(a.shape).astype(np.float64)
            norm = np.sqrt((a * a).sum() * (b * b).sum())
            cosine = min(cosine, float((a * b).sum() / norm) if norm else float(not a.any() and not b.any()))
            error = max(error, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return cosine, error


def judge(path: Path, facts: dict, limit: float) -> dict:
    """What happened to one file."""
    inputs = facts.get(path.name, {}).get("inputs", [])
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in inputs}
    code, text = command("check", path, limit=limit)
    options = []
    if "is not fixed" in text and shapes:                          # a dynamic shape: given as a user would
        options = [f"--shape={name}={'x'.join(map(str, shape))}" for name, shape in shapes.items()]
        code, text = command("check", path, *options, limit=limit)
    with tempfile.TemporaryDirectory(prefix="hwgen_corpus_") as folder:
        compiled = command("compile", path, "-o", Path(folder) / "build", "--array", "8x8", *options, limit=limit)
    row = {"file": str(path), "check": code, "compile": compiled[0], "message": text, "same": (code, text) == compiled,
           "traceback": any(c not in (0, 1, 2) or t == "Traceback" for c, t in ((code, text), compiled)), "wrong": False}
    if compiled[0] == 0:
        row["cosine"], row["error"] = difference(path, shapes if options else None, {entry["name"]: entry["kind"] for entry in inputs})
        row["wrong"] = row["cosine"] < MIN_COSINE or row["error"] > MAX_ERROR
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders, or single files")
    parser.add_argument("--inputs", type=Path, help="shapes and kinds of inputs by file name")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=float, default=600, help="seconds a command may take")
    args = parser.parse_args()
    facts = json.loads(args.inputs.read_text()) if args.inputs else {}
    files = sorted({path for folder in args.folders for path in ([folder] if folder.is_file() else folder.rglob("*.onnx"))})
    rows = []
    for path in files:
        rows.append(row := judge(path, facts, args.limit))
        marks = "".join(f"  {name.upper()}" for name, bad in (("wrong", row["wrong"]), ("traceback", row["traceback"]),
                                                               ("check is not compile", not row["same"])) if bad)
        shown = f"taken, cosine {row['cosine']:.7f}" if row["compile"] == 0 else (row["message"].splitlines() or [""])[0][:150]
        print(f"{path.parent.name}/{path.name}: {row['compile']} {shown}{marks}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    wrong, broken, unlike = (sum(row[key] is value for row in rows) for key, value in (("wrong", True), ("traceback", True), ("same", False)))
    print(f"{len(rows)} files, {sum(row['compile'] == 0 for row in rows)} taken; silently wrong {wrong}, traceback {broken}, "
          f"check is not compile {unlike}")
    return int(wrong + broken + unlike > 0)


if __name__ == "__main__":
    sys.exit(main())
