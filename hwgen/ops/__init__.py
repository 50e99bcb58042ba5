"""The operators of the float graph, one file each: record, shapes, float evaluation, what calibration needs, spellings in ONNX.

    operator.py   what a file here must hold; registry.py finds them and makes the table of rules
    operands.py   how a rule reads whole values; affine.py, factors and offsets that go into the weights of the node before
    embed.py      PatchEmbed          linear.py      Linear            norm.py       LayerNorm, RMSNorm
    head_norm.py  HeadNorm
    activation.py Activation          attention.py   Attention         moe.py        MoE, EarlyMoE
    residual.py   Add                 position.py    AddConst          tokens.py     ConcatTokens
    select.py     Select              slice.py       Slice
    mean.py       Mean                pool.py        AttentionPool
    multiply.py   Multiply            rotate.py      Rotate
    soft.py       SoftMoE             take.py        Take
    token_mix.py  TokenMix            prune.py       Prune             attended.py   Attended

    convolved.py  convolutions inside a network: what they take, and a Linear
    mixture.py    what of a file looks like a mixture of experts, its layers; routing.py, which mixture it is, by evaluating it

"""

from __future__ import annotations

from .activation import Activation
from .attended import Attended
from .attention import Attention, BiasedAttention
from .embed import PatchEmbed
from .head_norm import HeadNorm
from .linear import Linear
from .mean import Mean
from .moe import EarlyMoE, MoE
from .multiply import Multiply
from .norm import LayerNorm, RMSNorm
from .pool import AttentionPool
from .position import AddConst
from .prune import Prune
from .residual import Add
from .rotate import Rotate
from .select import Select
from .slice import Slice
from .soft import SoftMoE
from .take import Take
from .token_mix import TokenMix
from .tokens import ConcatTokens

__all__ = ["Activation", "Add", "AddConst", "Attended", "Attention", "AttentionPool", "BiasedAttention", "ConcatTokens", "EarlyMoE", "HeadNorm",
           "LayerNorm", "Linear", "Mean", "MoE", "Multiply", "PatchEmbed", "Prune", "RMSNorm", "Rotate", "Select", "Slice", "SoftMoE", "Take",
           "TokenMix"]
