"""Networks with convolutions inside, as exporters write them: stems, spatial reduction, depthwise ones between two linear maps."""

from __future__ import annotations

from onnx_nets import DIM, HIDDEN, Net

SIZE = 12               # of the image
GRID = 6                # rows and columns of tokens
STEM = 8


def stem(net: Net, batch_norm: bool = False, act: str = "Relu") -> str:
    """Two convolutions, the second one on the result of the first: [1, DIM, GRID, GRID]."""
    y = net.op("Conv", net.input("x", [1, 3, SIZE, SIZE]), net.random(STEM, 3, 3, 3), net.random(STEM), kernel_shape=[3, 3], pads=[1] * 4)
    if batch_norm:
        y = norm2d(net, y, STEM)
    y = net.op("Conv", net.op(act, y), net.random(DIM, STEM, 3, 3), net.random(DIM), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    return norm2d(net, y, DIM) if batch_norm else y


def norm2d(net: Net, x: str, channels: int) -> str:
    """BatchNormalization of an image."""
    return net.op("BatchNormalization", x, net.random(channels, offset=1.0), net.random(channels), net.random(channels),
                  net.const(abs(net.rng.normal(1, 0.2, channels))), epsilon=1e-5)


def tokens(net: Net, image: str, channels: int = DIM) -> str:
    """[1, C, H, W] -> [1, H * W, C]"""
    return net.op("Transpose", net.op("Reshape", image, net.ints(1, channels, -1)), perm=[0, 2, 1])


def image(net: Net, x: str, channels: int = DIM, rows: int = GRID) -> str:
    """[1, H * W, C] -> [1, C, H, W]"""
    return net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1]), net.ints(1, channels, rows, -1))


def conv(net: Net, x: str, channels: int = DIM, to: int = DIM, kernel: int = 3, group: int = 1, bias: bool = True, **attrs) -> str:
    operands = [net.random(to, channels // group, kernel, kernel), *([net.random(to)] if bias else [])]
    return net.op("Conv", x, *operands, kernel_shape=[kernel] * 2, group=group, **attrs)


def attended(net: Net, x: str, other: str) -> str:
    """Attention of the tokens of x to fewer ones."""
    q, k, v = net.heads_of(net.linear(x, DIM, DIM)), net.heads_of(net.linear(other, DIM, DIM)), net.heads_of(net.linear(other, DIM, DIM))
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const((DIM // 2) ** -0.5))
    return net.linear(net.merged(net.op("MatMul", net.op("Softmax", scores, axis=-1), v)), DIM, DIM)


def reduced(net: Net, x: str, stride: int = 2) -> str:
    """A block of PVT or Segformer: keys and values of tokens that a convolution makes fewer; MixFFN with a depthwise one."""
    n = net.norm(x)
    few = net.norm(tokens(net, conv(net, image(net, n), kernel=stride, strides=[stride] * 2)))
    x = net.add(x, attended(net, n, few))
    hidden = net.linear(net.norm(x), DIM, HIDDEN)
    mixed = tokens(net, conv(net, image(net, hidden, HIDDEN), HIDDEN, HIDDEN, group=HIDDEN, pads=[1] * 4), HIDDEN)
    return net.add(x, net.linear(net.op("Gelu", mixed), HIDDEN, DIM))


def pooled(net: Net) -> str:
    """The tokenizer of CCT, and an attention on its tokens."""
    y = net.op("Relu", conv(net, net.input("x", [1, 3, SIZE, SIZE]), 3, strides=[2, 2], pads=[1] * 4, bias=False))
    x = tokens(net, net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    return net.add(x, net.attention(net.norm(x)))


def peg(net: Net) -> str:
    """Positions by a depthwise convolution of the residual stream (CPVT, Twins)."""
    x = net.add(net.linear(net.input("x", [1, GRID * GRID, DIM]), DIM, DIM), net.random(1, GRID * GRID, DIM))
    x = net.add(x, net.attention(net.norm(x)))
    return net.add(x, tokens(net, conv(net, image(net, x), group=DIM, pads=[1] * 4)))


def images(net: Net) -> str:
    """A residual stream of images, to which branches of convolutions are added, then attention."""
    y = stem(net)
    y = net.add(y, conv(net, net.op("Gelu", conv(net, y, to=HIDDEN, kernel=1)), HIDDEN, DIM, 1))
    y = net.add(y, conv(net, net.op("Relu", norm2d(net, conv(net, y, to=HIDDEN, pads=[1] * 4), HIDDEN)), HIDDEN, pads=[1] * 4))
    x = tokens(net, y)
    return net.add(x, net.attention(net.norm(x)))


def stages(net: Net) -> str:
    """A stage, tokens merged by a convolution of its norm, and another stage."""
    x = reduced(net, net.add(tokens(net, stem(net)), net.random(1, GRID * GRID, DIM)))
    x = net.norm(tokens(net, conv(net, image(net, net.norm(x)), strides=[2, 2], pads=[1] * 4)))
    return net.add(x, net.attention(net.norm(x)))


def hybrid(batch_norm: bool = False, act: str = "Relu") -> Net:
    """Stem, position, a block with reduction, mean of the tokens."""
    net = Net()
    x = net.add(tokens(net, stem(net, batch_norm, act)), net.random(1, GRID * GRID, DIM))
    net.head(net.norm(reduced(net, x)), pool="mean")
    return net
