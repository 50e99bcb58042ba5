"""RotaryEmbedding of onnxruntime as lines of the ONNX language."""

from __future__ import annotations

from .contrib_parts import RANGE, SPLIT_OPERAND, Body, Call, Refused, index, integers, split

LAST = 2**31 - 1         # behind every channel


def rotary_embedding(call: Call) -> Body:
    """x [1, tokens, channels] or [1, heads, tokens, channels of a head], turned by rows of the tables x2 (cosines) and x3 (sines), [places, pairs].

    x1: the place of each token, or of the first one. The whole head is turned, or its first ``rotary_embedding_dim`` channels.
    """
    if call.attribute("is_packed_batching", 0) or call.attribute("scale", 1.0) != 1.0:
        raise Refused("packs sequences of several lengths, or has a scale")
    heads, part = call.attribute("num_heads", 0), call.attribute("rotary_embedding_dim", 0)
    by_heads = call.ranks.get(call.node.input[0], 3 if heads else 4) == 4
    if part and not (heads or by_heads):
        raise Refused("turns a part of each head and says no number of heads")
    yield from _places(call, 2 if by_heads else 1)
    if by_heads:
        yield "x = Identity (x0)"
    else:
        yield from _by_heads(call, heads)
    if part:
        yield integers("three", 3)
        for name, (low, high) in (("turning", (0, part)), ("rest", (part, LAST))):
            yield integers(f"{name}_from", low)
            yield integers(f"{name}_to", high)
            yield f"{name} = Slice (x, {name}_from, {name}_to, three)"
    yield from (_neighbours if call.attribute("interleaved", 0) else _halves)("turning" if part else "x", call.opset)
    yield "y = Concat <axis = 3> (turned, rest)" if part else "y = Identity (turned)"
    if by_heads:
        yield "y0 = Identity (y)"
    else:
        yield "by_tokens = Transpose <perm = [0, 2, 1, 3]> (y)"
        yield integers("joined", 0, 0, -1)
        yield "y0 = Reshape (by_tokens, joined)"


def _places(call: Call, tokens: int) -> Body:
    """cos and sin, [tokens, pairs] or [1, 1, tokens, pairs]; tokens: the axis of x."""
    rank = call.ranks.get(call.node.input[1])
    if rank not in (1, 2):
        raise Refused("has places of its tokens of which the file does not say how many axes they have")
    places = "x1"
    if rank == 1:
        if call.opset < RANGE:
            raise Refused(f"counts its tokens, which cannot be written out with operator set {call.opset}: export with opset_version {RANGE} "
                          "or later")
        yield "sizes = Shape (x0)"
        for name, value in (("token_axis", tokens), ("zero", 0), ("one", 1)):
            yield index(name, value)
        yield "count = Gather (sizes, token_axis)"
        yield "numbers = Range (zero, count, one)"
        yield "places = Add (numbers, x1)"
        places = "places"
    for name, table in (("cos", "x2"), ("sin", "x3")):
        rows = name if rank == 1 else f"{name}_rows"
        yield f"{rows} = Gather <axis = 0> ({table}, {places})"
        if rank == 2:
            yield from _unsqueezed(name, rows, 1, call.opset)


def _by_heads(call: Call, heads: int) -> Body:
    """x [1, heads, tokens, channels of a head] of x0 [1, tokens, channels]; without a number of heads they are as wide as two times the table."""
    if heads:
        yield integers("by_heads", 0, 0, heads, -1)
    else:
        yield "table = Shape (x2)"
        yield integers("one_axis", 1)
        yield integers("two", 2)
        yield "pairs = Gather (table, one_axis)"
        yield "head = Mul (pairs, two)"
        yield integers("in_front", 0, 0, -1)
        yield "by_heads = Concat <axis = 0> (in_front, head)"
    yield "apart = Reshape (x0, by_heads)"
    yield "x = Transpose <perm = [0, 2, 1, 3]> (apart)"


def _turned(a: str, b: str) -> Body:
    yield f"a_cos = Mul ({a}, cos)"
    yield f"b_sin = Mul ({b}, sin)"
    yield "real = Sub (a_cos, b_sin)"
    yield f"b_cos = Mul ({b}, cos)"
    yield f"a_sin = Mul ({a}, sin)"
    yield "imaginary = Add (b_cos, a_sin)"


def _halves(x: str, opset: int) -> Body:
    """Channel c turns with channel c + half."""
    yield from split(["a", "b"], x, opset, axis=3)
    yield from _turned("a", "b")
    yield "turned = Concat <axis = 3> (real, imaginary)"


def _neighbours(x: str, opset: int) -> Body:
    """Channel 2c turns with channel 2c + 1."""
    yield integers("channel_axis", 3)
    yield integers("each_second", 2)
    yield integers("behind_all", LAST)
    for name, start in (("a", 0), ("b", 1)):
        yield integers(f"{name}_first", start)
        yield f"{name} = Slice ({x}, {name}_first, behind_all, channel_axis, each_second)"
    yield from _turned("a", "b")
    for name in ("real", "imaginary"):
        yield from _unsqueezed(f"{name}_column", name, 4, opset)
    yield "pairs_together = Concat <axis = 4> (real_column, imaginary_column)"
    yield integers("flat_pairs", 0, 0, 0, -1)
    yield "turned = Reshape (pairs_together, flat_pairs)"


def _unsqueezed(result: str, x: str, axis: int, opset: int) -> Body:
    if opset >= SPLIT_OPERAND:                      # the operator set that made operands of attributes
        yield integers(f"{result}_axis", axis)
        yield f"{result} = Unsqueeze ({x}, {result}_axis)"
    else:
        yield f"{result} = Unsqueeze <axes = [{axis}]> ({x})"
