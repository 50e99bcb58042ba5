"""Windows: which words of an image a token is made of, as a convolution sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Window:
    """Over the last two dimensions of an image [C, H, W]; rows, then columns. pads: top, left, bottom, right; what lies there is 0. A rest
    that no window reaches is not read."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def patch(cls, rows: int, columns: int) -> Window:
        """Side by side, without a gap."""
        return cls((rows, columns), (rows, columns))

    @property
    def words(self) -> int:
        """Of a window in one channel."""
        return self.kernel[0] * self.kernel[1]

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of windows on an image; 0 where it is too small."""
        top, left, bottom, right = self.pads
        rows, columns = (max(0, (size - d * (k - 1) - 1) // s + 1) for size, k, s, d in zip(
            (height + top + bottom, width + left + right), self.kernel, self.stride, self.dilation, strict=True))
        return rows, columns

    def cut(self, images: np.ndarray) -> np.ndarray:
        """[B, C, H, W] -> [B, tokens, C * words]: windows row by row, channels (c, dy, dx)."""
        batch, channels, height, width = images.shape
        rows, columns = self.places(height, width)
        top, left, bottom, right = self.pads
        padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(self.pads) else images
        (p, q), (down, along), (dy, dx) = self.kernel, self.stride, self.dilation
        taps = [padded[:, :, y * dy:y * dy + (rows - 1) * down + 1:down, x * dx:x * dx + (columns - 1) * along + 1:along]
                for y in range(p) for x in range(q)]
        tokens = np.stack(taps, 2).reshape(batch, channels * self.words, rows * columns)
        return np.ascontiguousarray(tokens.transpose(0, 2, 1))

    def wrong(self) -> str | None:
        """What makes it no window, or None."""
        if min(*self.kernel, *self.stride, *self.dilation) < 1 or min(self.pads) < 0:
            return str(self)
        return None

    def __str__(self) -> str:
        text = f"{self.kernel[0]}x{self.kernel[1]}"
        if self.stride != self.kernel:
            text += f" every {self.stride[0]}x{self.stride[1]}"
        if any(self.pads):
            text += f" with {'+'.join(map(str, self.pads))} zeros around"
        return text + (f" dilated {self.dilation[0]}x{self.dilation[1]}" if self.dilation != (1, 1) else "")
