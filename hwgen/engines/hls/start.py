"""Calls that multiply nothing: the frame's input, the start of the residual stream, constants, LayerNorm."""

from __future__ import annotations

from typing import ClassVar

from ...layout.image import Shape, constant
from ...steps.format import WIDE
from ...steps.stages import Add, Constant, Host, Identity, Normalize, Rescale
from ...steps.tensor import Memory
from .call import DEPTH, Call, Follow, part
from .value import braces, words


class Patches(Call):
    """The patches of the frame -> dst."""

    function, kind, form = "patches", "PATCHES", ((Host, Identity),)

    def arguments(self) -> list[str]:
        return [self.dst.code]

    def about(self) -> str:
        step = self.steps[0]
        return f"patches of {part(step, Host).input}: {self.dst}, scale {step.sink.tensor.scale:.5g}"

    def cycles(self, lanes: int, queries: int) -> int:
        return self.input_words(lanes) + DEPTH

    def input_words(self, lanes: int) -> int:
        """Of a frame."""
        return self.dst.words(lanes)


class ResidualInit(Call):
    """The residual stream becomes a constant."""

    function, kind, memory = "residual_init", "RESIDUAL_INIT", Memory.RES
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Constant, Identity),)

    @property
    def size(self) -> tuple[int, int]:
        """Tokens and channels of the constant."""
        sink = self.steps[0].sink
        return sink.tokens.count, sink.channels.count

    def data(self, shape: Shape) -> bytes:
        return constant(part(self.steps[0], Constant).table.array, shape)

    def arguments(self) -> list[str]:
        tokens, channels = self.size
        return [f"{{{tokens}, {channels}}}", self.image]

    def about(self) -> str:
        return f"start of the residual stream: int16 {list(self.size)}, scale {self.steps[0].sink.tensor.scale:.5g}"

    def cycles(self, lanes: int, queries: int) -> int:
        return self.weight_words(lanes) + DEPTH

    def weight_words(self, lanes: int) -> int:
        tokens, channels = self.size
        return 2 * tokens * words(channels, lanes)

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, *self.size


class ResidualAdd(ResidualInit):
    """A constant is added to the residual stream."""

    function, asked, kind, form = "residual_add", "residual_init", "RESIDUAL_ADD", ((Constant, Identity, Add),)


class Constants(Call):
    """A constant -> dst."""

    function, asked, kind, form = "constant", "residual_init", "CONSTANT", ((Constant, Identity),)

    def data(self, shape: Shape) -> bytes:
        return constant(part(self.steps[0], Constant).table.array, shape)

    def arguments(self) -> list[str]:
        return [self.dst.code, self.image]

    def about(self) -> str:
        return f"constant: {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"

    def cycles(self, lanes: int, queries: int) -> int:
        return self.weight_words(lanes) + DEPTH

    def weight_words(self, lanes: int) -> int:
        return self.dst.words(lanes)


class Operands(Constants):
    """A constant of 16 bits -> dst in the operand memory."""

    function, kind, memory = "operands", "OPERANDS", Memory.OPERAND

    @property
    def follows(self) -> int:
        """All of it comes and stays in its place, however short the sequence is."""
        return Follow(0)

    def weight_words(self, lanes: int) -> int:
        return 2 * self.dst.words(lanes)

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, *self.dst.shape


class Tokens(Call):
    """The residual stream becomes the input of the frame."""

    function, asked, kind, form, memory = "tokens", "patches", "TOKENS", ((Host, Identity),), Memory.RES

    @property
    def size(self) -> tuple[int, int]:
        """Tokens and channels."""
        sink = self.steps[0].sink
        return sink.tokens.count, sink.channels.count

    def input_words(self, lanes: int) -> int:
        """Of a frame."""
        tokens, channels = self.size
        return WIDE.dtype.itemsize * tokens * words(channels, lanes)

    def arguments(self) -> list[str]:
        tokens, channels = self.size
        return [f"{{{tokens}, {channels}}}"]

    def about(self) -> str:
        return f"tokens of {part(self.steps[0], Host).input}: int16 {list(self.size)}, scale {self.steps[0].sink.tensor.scale:.5g}"

    def cycles(self, lanes: int, queries: int) -> int:
        return self.input_words(lanes) + DEPTH

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, *self.size


class LayerNorm(Call):
    """Residual stream -> dst."""

    function, kind = "layer_norm", "LAYER_NORM"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Normalize, Identity),)

    def arguments(self) -> list[str]:
        feed = part(self.steps[0], Normalize)
        return [self.dst.code, str(feed.eps), braces(feed.mean), braces(feed.out)]

    @property
    def rms(self) -> bool:
        return part(self.steps[0], Normalize).rms

    def about(self) -> str:
        return f"layer norm: int16 -> {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"

    def cycles(self, lanes: int, queries: int) -> int:
        return 2 * self.dst.words(lanes) + self.dst.tokens + 3 * DEPTH


class Rescaled(LayerNorm):
    """Residual stream times a factor -> dst."""

    function, kind, form, rms = "rescale", "RESCALE", ((Rescale, Identity),), False

    def arguments(self) -> list[str]:
        return [self.dst.code, braces(part(self.steps[0], Rescale).out)]

    def about(self) -> str:
        return f"residual stream: int16 -> {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"
