"""The names of the float graph where they used to be, for `hwgen.quantizer` until it has moved."""

from .functions import Act
from .graph import Graph, Model, Node
from .ops import Activation, Add, AddConst, Attention, ConcatTokens, LayerNorm, Linear, Mean, MoE, PatchEmbed, Select

__all__ = ["Act", "Activation", "Add", "AddConst", "Attention", "ConcatTokens", "Graph", "LayerNorm", "Linear", "Mean", "MoE", "Model", "Node",
           "PatchEmbed", "Select"]
