"""PatchEmbed: an image cut into patches, and a matrix on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op
from ..matching.trial import Match, Mismatch, Trial, in_order
from .linear import Linear
from .operands import operand
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class PatchEmbed(Operator):
    """Convolution with stride = kernel on ``[C, H, W]`` -> tokens ``[(H/p)*(W/q), D]``, row-major patches."""

    x: str
    weight: Array            # [D, C, p, q]
    bias: Array              # [D]

    GIVES: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True
    DEFERS: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        d, c, p, q = self.weight.shape
        if len(x) != 3 or x[0] != c or x[1] % p or x[2] % q:
            raise self.fail(f"image {x} does not divide into {c}x{p}x{q} patches")
        return (x[1] // p) * (x[2] // q), d

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        d, c, p, q = self.weight.shape
        batch, _, height, width = x.shape
        patches = x.reshape(batch, c, height // p, p, width // q, q).transpose(0, 2, 4, 1, 3, 5)
        y: Array = patches.reshape(batch, -1, c * p * q) @ self.weight.reshape(d, -1).T + self.bias
        return y

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array]:
        return {"weight": self.weight * scale[:, None, None, None], "bias": self.bias * scale + shift}

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"weight": np.tensordot(matrix, self.weight, (0, 0)), "bias": self.bias @ matrix}

    def as_matrix(self) -> tuple[tuple[int, int], Array]:
        """(rows and columns of a patch, weight float [C*p*q, D] of a patch's words, channels (c, dy, dx))."""
        rows, columns = self.weight.shape[2:]
        return (rows, columns), self.weight.reshape(len(self.weight), -1).T

    def lower(self, to: Lowering) -> None:
        """That of a Linear on the patches, which the host cuts."""
        Linear(self.name, self.output, self.x, self.as_matrix()[1], self.bias).lower(to)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Conv": (patch_embed,)})


def patch_embed(op: Op, trial: Trial) -> Match | None:
    """Conv with stride = kernel -> PatchEmbed; its tokens stand in the ONNX value channel by channel."""
    weight, bias = op.constant(1), op.constant(2)
    if weight is None or weight.ndim != 4:
        raise Mismatch("has a weight that is no constant [D, C, h, w]", op.name)
    kernel = list(weight.shape[2:])
    found = {"strides": op.attrs.get("strides", [1, 1]), "pads": op.attrs.get("pads", [0] * 4), "group": op.attrs.get("group", 1),
             "dilations": op.attrs.get("dilations", [1, 1])}
    wanted = {"strides": kernel, "pads": [0] * 4, "group": 1, "dilations": [1, 1]}
    if found != wanted or op.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        wrong = ", ".join(f"{key} {found[key]}, not {wanted[key]}" for key in wanted if found[key] != wanted[key])
        raise Mismatch(f"is no patch embedding, a Conv with stride = kernel {kernel}: it has "
                       f"{wrong or op.attrs['auto_pad']}", op.name)
    image = operand(trial, op.operand(0))
    if image is None:
        return None
    if len(image.shape) != 3 or image.shape[1] % kernel[0] or image.shape[2] % kernel[1]:
        raise Mismatch(f"has an image {list(image.shape)} that does not divide into patches {kernel}", op.name)
    dim, tokens = weight.shape[0], (image.shape[1] // kernel[0]) * (image.shape[2] // kernel[1])
    bias = np.zeros(dim, np.float32) if bias is None else bias
    node = PatchEmbed(op.name, op.outputs[0], image.value, trial.array(weight * np.float32(image.factor)), trial.array(bias))
    return Match((node,), in_order(dim, tokens).T)
