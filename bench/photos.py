"""How near the outputs of a whole ONNX file, host parts included, come to onnxruntime's on images, by precision.

    python bench/photos.py MODEL.onnx IMAGES.npz [--precision w8a8 w8a16 mixed] [--target-snr 25] [--allow-host] [--json photos.json]

The first half of the images calibrates, the other half judges. For every precision and output: the ratio of the power of the result to that of
the error in dB and the correlation, over all judged images and of the worst one; the cycles of an image, an estimate, over those of the first
precision; CPU seconds of `hwgen compile`; the share of the multiply-accumulates that the host runs. The integer model computes, not the RTL.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
import tempfile
import time

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "bench")]      # works in a checkout without installing

import hwgen
from vit_s14 import Images, decibels, halves


def correlation(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Over all images, and of the worst one."""
    pairs = [(found, wanted), *zip(found, wanted, strict=True)]
    every, *single = (float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs)
    return every, min(single)


def measure(path: Path, calibrate: Images, judge: Images, wanted: Images, options: dict) -> dict:
    """One precision; options of `hwgen.compile`. wanted: onnxruntime's outputs for the images that judge."""
    with tempfile.TemporaryDirectory(prefix="hwgen_photos_") as folder:
        start = time.process_time()
        accelerator = hwgen.compile(path, out=folder + "/build", calib=calibrate, shapes={name: (1, *array.shape[1:]) for name, array in judge.items()},
                                    **options)
        seconds = time.process_time() - start
        outputs = accelerator.simulate(judge, engine="golden").outputs
    report = accelerator.build.report
    return {"cycles": report["estimate"]["cycles_per_image"], "cpu_seconds": seconds, "host_macs": report.get("host", {}).get("share", 0.0),
            "outputs": {name: {"db": decibels(found, wanted[name]), "correlation": correlation(found, wanted[name])} for name, found in outputs.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--precision", nargs="+", default=["w8a8"])
    parser.add_argument("--target-snr", type=float, help="of precision mixed")
    parser.add_argument("--target", default="zcu102", help="board (zcu102)")
    parser.add_argument("--allow-host", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    calibrate, judge = halves(args.images)
    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    names, count = [output.name for output in session.get_outputs()], min(len(array) for array in judge.values())
    runs = [session.run(names, {name: array[i:i + 1] for name, array in judge.items()}) for i in range(count)]
    wanted = {name: np.concatenate(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}
    rows: list[dict] = []
    for precision in args.precision:
        options = {"target": args.target, "precision": precision, "allow_host": args.allow_host}
        row = measure(args.model, calibrate, judge, wanted, options | ({"target_snr": args.target_snr} if precision == "mixed" else {}))
        rows.append({"precision": precision} | row)
        print(f"{precision}: {row['cycles']:,} cycles (estimate), {row['cycles'] / rows[0]['cycles']:.2f} x; {row['cpu_seconds']:.0f} CPU s; "
              f"host {100 * row['host_macs']:.1f} % of the MACs")
        for name, of in row["outputs"].items():
            print(f"    {name}: {of['db'][0]:.1f} dB, worst image {of['db'][1]:.1f}; correlation {of['correlation'][0]:.5f}, "
                  f"worst image {of['correlation'][1]:.5f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
