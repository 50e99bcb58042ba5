"""Options and arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ..choices import Backend, Method, Precision
from ..errors import InputError
from . import terminal

Choice = TypeVar("Choice", bound=StrEnum)

Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=terminal.result, help="Also write the result as JSON; `-` is standard output."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=DIMS", help="Fix a dynamic input shape, as `--shape x=1x3x224x224`. May be given several times."),
]
Build = Annotated[Path, typer.Argument(help="Directory that `hwgen compile` wrote.", show_default=False)]
Model = Annotated[Path, typer.Argument(help="The ONNX file.", show_default=False)]
Target = Annotated[str, typer.Option(help="Board: a name from `hwgen targets`, or a YAML file.")]
Calib = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|random", help="Calibration images: an .npz keyed by ONNX input name. Without, seeded noise: accuracy is unknown then."
    ),
]
Array = Annotated[str | None, typer.Option(metavar="TIxTO", help="Array size of the RTL engine, as `32x32`; otherwise the board decides.")]
MethodOption = Annotated[Method, typer.Option(help="How ranges are taken from the calibration images.")]
BackendOption = Annotated[Backend, typer.Option(help="`rtl`, or `hls`: a Vitis HLS project in C++, or `both`.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Bits of weights and activations: `w4a8` gives the layers of all blocks 4-bit "
        "weights, `w4a8-experts` the experts only; `w8a16` gives what they read 16 bits, in twice "
        "the cycles; `mixed` keeps in 16 bits what a target needs."
    ),
]
Quant = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml",
        help="Rules for single layers, by ONNX node name or pattern: method, bits, scale, bias_correction.",
        show_default=False,
    ),
]
AllowHost = Annotated[
    bool,
    typer.Option(
        "--allow-host",
        help="What there are no steps for may run on the host, however much it is; otherwise up to "
        "5 % of the multiply-accumulates (25 % in a file with fewer than two blocks).",
    ),
]
TargetSnr = Annotated[
    float | None, typer.Option(help="Of `--precision mixed`: signal to noise ratio of the worst output, in dB, on the calibration images.")
]
TargetAccuracy = Annotated[float | None, typer.Option(help="Of `--precision mixed`: share of the labels in the calibration set, 0 to 1.")]
Lengths = Annotated[
    bool, typer.Option("--lengths", help="A run says how many tokens of its sequence there are, and takes the cycles of so many.")
]
Batch = Annotated[int, typer.Option(min=1, help="Images worked on together: weights are read once for all of them.")]


def chosen(kind: type[Choice]) -> Callable[[str], Choice]:
    """A parser of one of a few words; another word is an InputError with these."""
    def parse(text: str) -> Choice:
        if text not in tuple(kind):
            raise InputError(f"there is no {kind.__name__.lower()} {text!r}", hint=f"there are {', '.join(kind)}")
        return kind(text)
    return parse
