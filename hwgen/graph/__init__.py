"""The float graph: a small, typed, frozen IR for attention encoders, free of any file format and of any operator.

    node.py       the base class of operators: what each must say of itself
    graph.py      `Graph`, one network, and `Model`, one graph per task of a network; both verify themselves
    evaluate.py   what a graph computes in float32, a loop over its nodes

A value is named by a string and has a static shape without the batch dimension: ``(tokens, channels)`` for a token
sequence, ``(channels,)`` for one vector, ``(C, H, W)`` for an image. Weights are float32 numpy arrays inside the node
that uses them; two nodes that hold the same array object share it. The operators themselves are in `hwgen.ops`.
"""

from __future__ import annotations

from .graph import Graph, Model
from .node import Array, FixedFormat, Inner, Node, Role, Shape, Unit

__all__ = ["Array", "FixedFormat", "Graph", "Inner", "Model", "Node", "Role", "Shape", "Unit"]
