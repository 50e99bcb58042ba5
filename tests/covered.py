"""What random networks are made of: operators of the registry, and the variants of them that engines have stages of their own for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from hwgen import ops
from hwgen.graph import Model, Node
from hwgen.ops.masks import LEAST
from hwgen.ops.registry import operators

VARIANTS: dict[str, Callable[[Node], bool]] = {
    "gated experts": lambda node: isinstance(node, ops.MoE) and node.gated,
    "experts not renormalised": lambda node: isinstance(node, ops.MoE) and node.num_experts > 1 and not node.renormalize,
    "one expert chosen of several": lambda node: isinstance(node, ops.MoE) and node.num_experts > 1 and node.top_k == 1,
    "shared expert": lambda node: isinstance(node, ops.MoE) and node.num_experts == 1,
    "sigmoid gates": lambda node: isinstance(node, ops.MoE) and node.sigmoid and node.num_experts > 1,
    "bias of the choice": lambda node: isinstance(node, ops.MoE) and node.choice.size > 0,
    "gated experts of a soft mixture": lambda node: isinstance(node, ops.SoftMoE) and node.w3.size > 0,
    "causal attention": lambda node: isinstance(node, ops.Attention) and node.causal,
    "tokens near by": lambda node: isinstance(node, ops.BiasedAttention) and not node.causal and bool((node.bias[..., 0, -1] <= LEAST).all()),
    "the last tokens": lambda node: isinstance(node, ops.BiasedAttention) and node.causal and bool((node.bias[..., -1, 0] <= LEAST).all()),
    "attention within windows": lambda node: isinstance(node, ops.Attention) and node.windows > 1,
    "bias of each window": lambda node: isinstance(node, ops.BiasedAttention) and node.bias.ndim == 4,
    "mask": lambda node: isinstance(node, ops.BiasedAttention) and bool((node.bias <= LEAST).any()),
    "bias for all heads": lambda node: isinstance(node, ops.BiasedAttention) and node.bias.shape[-3] == 1 and bool((node.bias > LEAST).all()),
    "bias of each head": lambda node: isinstance(node, ops.BiasedAttention) and node.bias.shape[-3] > 1,
    "LayerNorm of heads": lambda node: isinstance(node, ops.HeadNorm) and not node.rms,
    "RMSNorm of heads": lambda node: isinstance(node, ops.HeadNorm) and node.rms,
    "values of a width of their own": lambda node: isinstance(node, ops.Linear) and node.name.endswith(".proj") and node.weight.shape[0] != node.weight.shape[1],
    "tokens kept in the order of their scores": lambda node: isinstance(node, ops.Prune) and node.ranked,
    "tokens kept as they stand": lambda node: isinstance(node, ops.Prune) and not node.ranked,
    "windows that overlap": lambda node: isinstance(node, ops.PatchEmbed) and node.sparse is not None,
    "factors of negative sign": lambda node: isinstance(node, ops.LayerNorm) and bool((node.gamma < 0).any()),
}


def contents(model: Model) -> set[str]:
    """Names of the operators and of `VARIANTS` that it has."""
    nodes = [node for graph in model.tasks for node in graph.nodes]
    return {type(node).__name__ for node in nodes} | {name for name, has in VARIANTS.items() if any(map(has, nodes))}


def missing(found: Iterable[str]) -> list[str]:
    """What no network has."""
    return sorted({*VARIANTS, *(operator.__name__ for operator in operators())} - {*found})


def table(found: Counter[str]) -> str:
    """How many networks have what, for people."""
    lines = [f"  {name:<34}{found[name]:>5}" for name in (*(operator.__name__ for operator in operators()), *VARIANTS)]
    lines += [f"  {name:<34}{count:>5}" for name, count in found.items() if name not in VARIANTS and name not in {op.__name__ for op in operators()}]
    return "\n".join(["networks with", *lines])
