"""The table of rewrite rules: for each ONNX operator the rules tried on it, in order."""

from __future__ import annotations

from typing import Callable

from . import activation, attention, layers, moe
from .opgraph import Op
from .trial import Match, Trial

Rule = Callable[[Op, Trial], Match | None]

RULES: dict[str, tuple[Rule, ...]] = {
    "Conv": (layers.patch_embed,),
    "MatMul": (attention.matmul_attention, layers.linear),
    "Gemm": (layers.linear,),
    "Attention": (attention.attention_operator,),
    "LayerNormalization": (layers.layer_norm,),
    "Div": (layers.decomposed_layer_norm, layers.scale_and_shift),
    "Mul": (layers.scale_and_shift, activation.activation),
    "Sub": (layers.scale_and_shift,),
    "Add": (layers.scale_and_shift, layers.add),
    "Relu": (activation.activation,),
    "Gelu": (activation.activation,),
    "Swish": (activation.activation,),
    "ReduceSum": (moe.moe,),
    "ReduceMean": (layers.mean,),
    "Concat": (layers.concat_tokens,),
}

# Operators that are only supported as a part of something, and of what.
PARTS: dict[str, str] = {
    "Add": "a Linear, a residual connection, an activation or a mixture of experts",
    "Div": "a LayerNorm or a router",
    "Erf": "a GELU",
    "IsNaN": "an attention",
    "MatMul": "a Linear, an attention or a mixture of experts",
    "Mul": "an activation, an attention, a mixture of experts or a scale behind a Linear",
    "Pow": "a LayerNorm or a GELU",
    "ReduceMean": "a LayerNorm or the mean of tokens",
    "ReduceSum": "a mixture of experts",
    "ScatterElements": "a router",
    "Sigmoid": "a SiLU",
    "Softmax": "an attention or a router",
    "Sqrt": "a LayerNorm",
    "Sub": "a LayerNorm",
    "Tanh": "a GELU",
    "TopK": "a router",
    "Where": "an attention",
}
