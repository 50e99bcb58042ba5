"""Mixtures whose router reads other tokens than the experts: those of the layer before (pre-gating), or an MLP of its own."""

from __future__ import annotations

from collections.abc import Callable

from moe_loops import LOOPS
from moe_spellings import SPELLINGS, TOP_1, Mix
from onnx_nets import DIM, TOKENS, Net

EARLY: dict[str, Callable[[Net], str]] = {}


class Early(Mix):
    """A mixture whose router reads ``routed``."""

    routed = ""

    def logits(self, x: str | None = None) -> str:
        return super().logits(self.op("Reshape", self.routed, self.net.ints(-1, DIM)))


def mixture(net: Net, routed: str, x: str, spelling: Callable[[Mix], str] = SPELLINGS["modules"], k: int = 2, seed: int = 5) -> str:
    """[1, TOKENS, DIM]"""
    mix = Early(net, x, False, k, seed)
    mix.routed = routed
    return net.op("Reshape", spelling(mix), net.ints(1, TOKENS, DIM))


def early(function: Callable[[Net], str]) -> Callable[[Net], str]:
    """Notes a network: the state in front of its head."""
    EARLY[function.__name__.replace("_", " ")] = function
    return function


def start(net: Net) -> tuple[str, str]:
    """The residual stream and its norm."""
    t = net.embed(net.image())
    return t, net.norm(t)


@early
def before_the_attention(net: Net) -> str:
    """The router reads what the attention in front of the experts does."""
    t, before = start(net)
    t = net.add(t, net.attention(before))
    return net.add(t, mixture(net, before, net.norm(t)))


@early
def of_the_block_before(net: Net) -> str:
    """Two layers of experts; what the experts of the first one read, the router of the second does too."""
    t, x = start(net)
    t = net.add(t, mixture(net, x, x))
    t = net.add(t, net.attention(net.norm(t)))
    return net.add(t, mixture(net, x, net.norm(t), LOOPS["choices of an expert"], seed=6))


@early
def two_at_a_time(net: Net) -> str:
    """The router of the second layer reads before that of the first one has served."""
    t, x = start(net)
    t = net.add(t, net.attention(x))
    y = net.norm(t)
    t = net.add(t, mixture(net, x, y, SPELLINGS["stack"]))
    return net.add(t, mixture(net, y, net.norm(t), seed=6))


@early
def tokens_as_they_are(net: Net) -> str:
    """The router reads the residual stream without a norm."""
    t, x = start(net)
    u = net.add(t, net.attention(x))
    return net.add(u, mixture(net, t, net.norm(u)))


@early
def a_router_of_two_layers(net: Net) -> str:
    t, x = start(net)
    return net.add(t, mixture(net, net.op("Tanh", net.linear(x, DIM, DIM)), x))


@early
def post_norm(net: Net) -> str:
    """No residual stream goes past the norms: the experts' tokens are made of the router's alone."""
    _, x = start(net)
    u = net.norm(net.add(x, net.attention(x)))
    return net.add(u, mixture(net, x, u, TOP_1["largest and its place"], k=1))


def network(build: Callable[[Net], str]) -> Net:
    net = Net()
    net.head(net.norm(build(net)))
    return net
