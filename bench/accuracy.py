"""Accuracy figures of the number contract, in one command: the bundled example, attention's softmax, GELU.

    python bench/accuracy.py [--json accuracy.json]

Accuracy: float and integer golden model on all 500 held-back digits, both tasks, all ways to choose ranges.
Softmax: relative error of P @ V, contract against float softmax. GELU: largest error before the output is quantized.
Exit code 1 when a figure misses its limit.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
import json
import math
from pathlib import Path
import sys

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))      # works in a checkout without installing

from hwgen import numerics, quantizer
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.knots import knots
from hwgen.steps import golden, host

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
TASKS = ("digit", "parity")
ACCURACY_LIMIT = 0.5         # points between float and integer
SOFTMAX_LIMIT = 0.02
GELU_LIMIT = 2.5e-3          # half a unit of the pre-activation, 2**-9, times the slope, 1.13; the table adds 1e-4


@dataclass(frozen=True)
class Accuracy:
    """Percent of the images classified correctly."""

    task: str
    method: str
    images: int
    float_percent: float
    integer_percent: float

    @property
    def points(self) -> float:
        return abs(self.float_percent - self.integer_percent)


def accuracies(path: Path = EXAMPLE / "model.onnx") -> list[Accuracy]:
    """Float and integer accuracy of each task of the example for each quantizer method, on the whole test set."""
    model = import_model(path).model
    with np.load(EXAMPLE / "calib.npz") as file:
        calibration = {"x": file["x"]}
    with np.load(EXAMPLE / "test.npz") as file:
        test = dict(file)

    def percent(logits, task):
        return 100 * float((logits.reshape(len(logits), -1).argmax(1) == test[task]).mean())

    float_percent = {task: percent(evaluate.run(graph, {"x": test["x"]})[task], task)
                     for task, graph in zip(TASKS, model.tasks, strict=True)}
    result = []
    for method in quantizer.METHODS:
        quantized = quantizer.quantize(model, calibration, method=method)
        for task, graph in zip(TASKS, quantized.tasks, strict=True):
            logits = host.dequantize(graph, golden.run(graph, test["x"]))[task]
            result.append(Accuracy(task, method, len(test["x"]), float_percent[task], percent(logits, task)))
    return result


def softmax_error(tokens: int = 197, sigma: float = 1.0, head_dim: int = 64, heads: int = 16, seed: int = 0) -> float:
    """Relative error (Frobenius) of P @ V over ``heads`` random heads: the integer contract against float softmax.

    Logits are normal with ``sigma``; V is the same int8 matrix on both sides; the integer side rounds logits to scores, takes
    `exp2_p8`, sums and `softmax_factor`. Its output has 16 bits, so that the rounding of the output does not hide the error.
    """
    rng = np.random.default_rng(seed)
    logits = sigma * rng.standard_normal((heads, tokens, tokens))
    v = np.clip(np.rint(40 * rng.standard_normal((heads, tokens, head_dim))), -127, 127)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    expected = p / p.sum(-1, keepdims=True) @ v

    scores = numerics.sat(np.rint(logits / math.log(2) * 2 ** numerics.SCORE_FRAC).astype(np.int64), 16)
    p = numerics.exp2_p8(scores.max(-1, keepdims=True) - scores)
    scale = np.abs(v).max() / 32767                                      # of one output unit; |output| <= |v|
    mult, shift = numerics.softmax_factor(p.sum(-1), *numerics.quantize_multiplier(1 / scale))
    out = numerics.requantize(numerics.matmul(p, v), mult[..., None], shift[..., None], 16)
    return float(np.linalg.norm(out * scale - expected) / np.linalg.norm(expected))


def gelu_error(samples: int = 9) -> float:
    """Largest |error| of GELU over the range of a pre-activation (-128 .. 128), rounding of the input included.

    ``samples`` real inputs, evenly from one rounding limit to the other, are compared for each of the 65,535 integer ones.
    """
    x = np.arange(-32767, 32768)
    result = numerics.activation(x, knots("gelu")) * 2.0 ** -numerics.ACT_FRAC
    erf = np.vectorize(math.erf, otypes=[float])
    worst = 0.0
    for offset in np.linspace(-0.5, 0.5, samples):
        real = (x + offset) * 2.0 ** -numerics.PRE_ACT_FRAC
        worst = max(worst, float(np.abs(result - 0.5 * real * (1 + erf(real / math.sqrt(2)))).max()))
    return worst


def main() -> int:
    """Print the figures; 1 if one misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()

    rows = accuracies()
    print(f"{'task':8} {'ranges':12} {'images':>6} {'float':>8} {'integer':>8}")
    for row in rows:
        print(f"{row.task:8} {row.method:12} {row.images:6} {row.float_percent:7.1f}% {row.integer_percent:7.1f}%")
    points, softmax, gelu = max(row.points for row in rows), softmax_error(), gelu_error()
    print(f"largest difference float - integer   {points:8.2f} points  (limit {ACCURACY_LIMIT})")
    print(f"softmax P @ V relative error         {softmax:8.4f}         (limit {SOFTMAX_LIMIT}; 197 tokens, logit sigma 1)")
    print(f"GELU largest absolute error          {gelu:8.1e}         (limit {GELU_LIMIT:g}; before output quantization)")
    if args.json:
        figures = {"accuracy": [asdict(row) for row in rows], "accuracy_points": points, "softmax_relative_error": softmax,
                   "gelu_max_abs_error": gelu}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(points > ACCURACY_LIMIT or softmax > SOFTMAX_LIMIT or gelu > GELU_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
