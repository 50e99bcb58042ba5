"""Einsum of two operands as operators that say the same: transposes, reshapes, and one MatMul or Mul."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import onnx
from onnx import helper

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operand:
    """labels: one an axis of the value, in order; sizes: of the labels. An axis of size 1 that is broadcast has the label "1"."""

    value: str
    labels: tuple[str, ...]
    sizes: dict[str, int]
    constant: bool


def written_out(node: onnx.NodeProto, shapes: Sequence[Shape], constant: Sequence[bool], fresh: str) -> list[onnx.NodeProto] | None:
    """Nodes that give the result of an Einsum; None when it is more than one product. fresh: names of values inside begin with it."""
    equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "").replace(" ", "")
    if len(node.input) != 2:
        return None
    labels, result = _labels(equation, shapes)
    if any(len(set(own) - {"1"}) != len([label for label in own if label != "1"]) for own in (*labels, result)):
        return None                                                 # a diagonal
    sizes = {label: size for own, shape in zip(labels, shapes, strict=True) for label, size in zip(own, shape, strict=True)}
    a, b = (Operand(value, own, sizes, fixed) for value, own, fixed in zip(node.input, labels, constant, strict=True))
    common, kept = (set(a.labels) & set(b.labels)) - {"1"}, set(result)
    if any((set(x.labels) - {"1"}) - set(y.labels) - kept for x, y in ((a, b), (b, a))):
        return None                                                 # a sum over one operand
    if a.constant or not b.constant and _starts_with(result, set(b.labels) - common):
        a, b = b, a
    made = _Made(node.output[0], fresh)
    summed = [label for label in a.labels if label in common and label not in kept]
    if not summed:
        both = [made.aligned(operand, result) for operand in (a, b)]
        made.add("Mul", both, node.output[0])
        return made.nodes
    batch = [label for label in result if label in common]
    rows, columns = ([label for label in result if label in x.labels and label not in common] for x in (a, b))
    left = made.matrix(a, batch, [rows, summed])
    right = made.matrix(b, batch, [summed, columns])
    product = made.add("MatMul", [left, right])
    order = [*batch, *rows, *columns]
    made.shaped(product, order, result, sizes)
    return made.nodes


def _labels(equation: str, shapes: Sequence[Shape]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Labels of the operands and of the result; the axes of an ellipsis get numbers counted from its end, those that are broadcast "1"."""
    operands, arrow, result = equation.partition("->")
    terms = operands.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"the equation {equation!r} has {len(terms)} operands")
    wide = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    found = [_spelled(term, count) for term, count in zip(terms, wide, strict=True)]
    largest: dict[str, int] = {}
    for own, shape in zip(found, shapes, strict=True):
        for label, size in zip(own, shape, strict=True):
            largest[label] = max(size, largest.get(label, 1))
    found = [tuple("1" if size == 1 and largest[label] > 1 else label for label, size in zip(own, shape, strict=True))
             for own, shape in zip(found, shapes, strict=True)]
    dots = max((count for term, count in zip(terms, wide, strict=True) if "..." in term), default=0)
    if not arrow:
        letters = operands.replace(",", "").replace(".", "")
        result = "..." * ("..." in operands) + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return found, _spelled(result, dots)


def _spelled(term: str, dots: int) -> tuple[str, ...]:
    before, ellipsis, behind = term.partition("...")
    return (*before, *(f"{place}..." for place in range(dots, 0, -1) if ellipsis), *behind)


def _starts_with(result: tuple[str, ...], own: set[str]) -> bool:
    """Whether the first axis of the result that belongs to one operand alone is among these."""
    return any(label in own for label in result[-2:-1]) and not any(label in own for label in result[-1:])


class _Made:
    """Nodes as they are made."""

    def __init__(self, output: str, fresh: str):
        self.output, self.fresh = output, fresh
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        output = output or f"{self.fresh}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def reshaped(self, value: str, shape: Sequence[int], output: str = "") -> str:
        tensor = helper.make_tensor("shape", onnx.TensorProto.INT64, [len(shape)], shape)
        return self.add("Reshape", [value, self.add("Constant", [], value=tensor)], output)

    def ordered(self, operand: Operand, wanted: Sequence[str]) -> str:
        """The operand with its axes in this order; broadcast axes last."""
        places = [operand.labels.index(label) for label in wanted]
        places += [place for place in range(len(operand.labels)) if place not in places]
        return operand.value if places == sorted(places) else self.add("Transpose", [operand.value], perm=places)

    def aligned(self, operand: Operand, result: tuple[str, ...]) -> str:
        """The operand with the axes of the result, those it has not of size 1."""
        value = self.ordered(operand, [label for label in result if label in operand.labels])
        return self.reshaped(value, [operand.sizes[label] if label in operand.labels else 1 for label in result])

    def matrix(self, operand: Operand, batch: list[str], sides: list[list[str]]) -> str:
        """[*batch, rows, columns]; without the batch where the operand has none of it."""
        own = [label for label in batch if label in operand.labels]
        value = self.ordered(operand, [*own, *sides[0], *sides[1]])
        merged = [math.prod(operand.sizes[label] for label in side) for side in sides]
        return self.reshaped(value, [*(operand.sizes[label] for label in own), *merged])

    def shaped(self, product: str, order: list[str], result: tuple[str, ...], sizes: dict[str, int]) -> None:
        """The product, whose axes are in ``order`` and merged, as the result."""
        perm = [order.index(label) for label in result]
        if perm == sorted(perm):
            self.reshaped(product, [sizes[label] for label in order], self.output)
        else:
            self.add("Transpose", [self.reshaped(product, [sizes[label] for label in order])], self.output, perm=perm)
