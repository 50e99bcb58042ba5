"""Names of outputs and of values kept apart: a network whose output is a value it goes on to use has one name for two things in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..graph import Node
from ..matching.trial import Bound
from ..ops import Linear


def apart(nodes: dict[str, Node], bound: Mapping[str, Bound],
          outputs: dict[str, str]) -> tuple[dict[str, Node], dict[str, Bound], dict[str, str], dict[str, str]]:
    """The ir nodes by value, what ONNX values are in the ir, the outputs, and old names to new ones: values that are called like an output get a
    name of their own, but for a Linear that only leaves: it is the output."""
    read = {value for node in nodes.values() for value in node.inputs}
    names: dict[str, str] = {}
    for value in outputs:
        if value in nodes and (value in read or not isinstance(nodes[value], Linear)):
            new = f"{value}'"
            while new in nodes or new in outputs:
                new += "'"
            names[value] = new
    if not names:
        return nodes, dict(bound), outputs, names
    renamed = {value: replace(node, **{key: names.get(name, name) for key in ("output", *node.VALUES) if (name := getattr(node, key))})
               for value, node in nodes.items()}
    found = {key: replace(one, value=names.get(one.value, one.value), node=one.node and renamed.get(one.node.output, one.node))
             for key, one in bound.items()}
    return {node.output: node for node in renamed.values()}, found, {key: names.get(value, value) for key, value in outputs.items()}, names
