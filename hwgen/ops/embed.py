"""PatchEmbed: an image cut into windows, and a matrix on each: a convolution as the first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op
from ..matching.trial import Match, Mismatch, Trial, in_order
from ..steps.window import Window
from .linear import Linear
from .operands import operand
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class PatchEmbed(Operator):
    """Convolution on an image ``[C, H, W]`` or a signal ``[C, W]`` -> tokens ``[places, D]``, row by row."""

    x: str
    weight: Array            # [D, C, p, q]
    bias: Array              # [D]
    sparse: Window | None = None     # where windows overlap, leave gaps or reach over the border

    GIVES: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True
    DEFERS: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        d, words = self.matrix.shape
        places = self.window.places(1 if len(x) == 2 else x[1], x[-1]) if len(x) in (2, 3) else (0, 0)
        if not all(places) or x[0] * self.window.words != words:
            raise self.fail(f"image {x} has no windows of {words} words, {self.window}")
        return math.prod(places), d

    @property
    def window(self) -> Window:
        """What of the image a token sees: side by side if nothing else is said."""
        return self.sparse or Window.patch(*self.weight.shape[2:])

    @property
    def matrix(self) -> Array:
        """[D, C * p * q], a window's words by channels (c, dy, dx)."""
        return self.weight.reshape(len(self.weight), -1)

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        y: Array = self.window.cut(x[:, :, None] if x.ndim == 3 else x) @ self.matrix.T + self.bias
        return y

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array]:
        return {"weight": self.weight * scale[:, None, None, None], "bias": self.bias * scale + shift}

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"weight": np.tensordot(matrix, self.weight, (0, 0)), "bias": self.bias @ matrix}

    def lower(self, to: Lowering) -> None:
        """That of a Linear on the windows, which the host cuts."""
        Linear(self.name, self.output, self.x, self.matrix.T, self.bias).lower(to)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Conv": (patch_embed,)})


def patch_embed(op: Op, trial: Trial) -> Match | None:
    """Conv -> PatchEmbed; its tokens stand in the ONNX value channel by channel."""
    weight, bias = op.constant(1), op.constant(2)
    if weight is None or weight.ndim not in (3, 4):
        raise Mismatch("has a weight that is no constant [D, C, h, w] or [D, C, w]", op.name)
    image = operand(trial, op.operand(0))
    if image is None:
        return None
    dim, groups = weight.shape[0], op.integer("group", 1)
    if len(image.shape) != weight.ndim - 1 or dim % groups or image.shape[0] != groups * weight.shape[1]:
        raise Mismatch(f"has an image {list(image.shape)} and a weight {list(weight.shape)} of {groups} groups", op.name)
    height, width = (1, *image.shape[1:])[-2:]
    window = window_of(op, list(weight.shape[2:]), (height, width))
    if not all(window.places(height, width)):
        raise Mismatch(f"has an image {list(image.shape)} that holds no window of {window}", op.name)
    whole = ungrouped(weight.reshape(*weight.shape[:2], *window.kernel), groups)
    bias = np.zeros(dim, np.float32) if bias is None else bias
    node = PatchEmbed(op.name, op.outputs[0], image.value, trial.array(whole * np.float32(image.factor)), trial.array(bias),
                      None if window == Window.patch(*window.kernel) else window)
    return Match((node,), in_order(dim, math.prod(window.places(height, width))).T)


def window_of(op: Op, kernel: list[int], size: tuple[int, int]) -> Window:
    """Of a Conv on an image, or on a signal as an image of one row."""
    rank = len(kernel)
    stride, dilation = op.integers("strides") or [1] * rank, op.integers("dilations") or [1] * rank
    pads, auto = op.integers("pads") or [0] * 2 * rank, op.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        whole = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, s, d, k in zip(size[-rank:], stride, dilation, kernel, strict=True)]
        less, more = [n // 2 for n in whole], [-(-n // 2) for n in whole]
        pads = less + more if auto == "SAME_UPPER" else more + less
    elif auto == "VALID":
        pads = [0] * 2 * rank
    if rank == 1:
        kernel, stride, dilation, pads = [1, *kernel], [1, *stride], [1, *dilation], [0, pads[0], 0, pads[1]]
    window = Window((kernel[0], kernel[1]), (stride[0], stride[1]), (pads[0], pads[1], pads[2], pads[3]), (dilation[0], dilation[1]))
    if wrong := window.wrong():
        raise Mismatch(f"has windows of {wrong}", op.name)
    return window


def ungrouped(weight: Array, groups: int) -> Array:
    """[D, C / groups, p, q] -> [D, C, p, q], 0 where an output does not see a channel."""
    dim, own, p, q = weight.shape
    whole = np.zeros((groups, dim // groups, groups, own, p, q), weight.dtype)
    whole[np.arange(groups), :, np.arange(groups)] = weight.reshape(groups, dim // groups, own, p, q)
    return whole.reshape(dim, groups * own, p, q)
