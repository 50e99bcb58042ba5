"""What a user says of single layers: a mapping or a YAML file, by the names or patterns of ONNX nodes -> `Recipe`.

    /blocks/blocks.0/mlp/act/Mul: {bits: 16}
    "*attn*":                     {method: mse, weights: {bits: 8}}
    x:                            {scale: 0.0213}

The rule of a node is for the value it stores; ``weights`` is for its weights. Where several patterns fit, a later line goes before an
earlier one, entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import difflib
from fnmatch import fnmatchcase
import math

import numpy as np

from ..errors import InputError
from ..graph import Array, Model
from .recipe import METHODS, VALUE_BITS, WEIGHT_BITS, Recipe, Rule

ENTRIES = {"method": f"one of {', '.join(METHODS)}", "bits": "8 or 16", "scale": "a number above 0", "weights": "bits (4 or 8), scale, or both"}
OF_WEIGHTS = {"bits": "4 or 8", "scale": "a number above 0, or a list of one an output channel"}
KNOWN = 6               # near names in a message


def recipe(layers: object, model: Model, became: Mapping[str, str], where: str = "quant") -> Recipe:
    """The rules of ``layers``: {name or pattern: {"method", "bits", "scale", "weights": {"bits", "scale"}}}.

    became: ONNX nodes that are part of another one -> that one. where: what the rules came from, for messages. Raises InputError for a name
    that no node has, an entry there is not, and a value an entry cannot have.
    """
    if not isinstance(layers, Mapping):
        raise InputError(f"the layers' rules are {type(layers).__name__}, not a mapping of node names", where=where, hint=_hint(ENTRIES))
    owners = {node.name: node.output for graph in model.tasks for node in graph.nodes}
    inputs = {name: name for graph in model.tasks for name in graph.inputs}
    names = {**{name: owner for name, owner in became.items() if owner in owners}, **{name: name for name in (*owners, *inputs)}}
    values: dict[str, Rule] = {}
    exact: set[tuple[str, str]] = set()
    weights: dict[str, Rule] = {}
    for pattern, given in layers.items():
        place = f"{where}: {pattern}"
        rule, of_weights = _rule(given, place)
        for owner in dict.fromkeys(names[name] for name in _fitting(str(pattern), names, where)):
            value = inputs.get(owner) or owners[owner]
            if rule != Rule():
                values[value] = _over(values.get(value, Rule()), rule)
                exact |= {("value", value)} if pattern in names else set()
            if of_weights is not None and owner in inputs and pattern in names:
                raise InputError("an input has no weights", where=place, hint="give the rule to the node that reads it")
            if of_weights is not None and owner in owners:
                weights[owner] = _over(weights.get(owner, Rule()), of_weights)
                exact |= {("weights", owner)} if pattern in names else set()
    return Recipe(values, weights, frozenset(exact))


def _fitting(pattern: str, names: Iterable[str], where: str) -> list[str]:
    """The names a pattern is for. Raises InputError with near ones when there are none."""
    found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, list(names), KNOWN, 0.4)
        raise InputError(f"no node and no input is called {pattern!r}", where=where,
                         hint=f"near names: {', '.join(near)}" if near else "hwgen show MODEL.onnx --stage quant prints all names")
    return found


def _rule(given: object, where: str) -> tuple[Rule, Rule | None]:
    """(of the value, of the weights or None)"""
    entries = _entries(given, ENTRIES, where)
    method, bits = entries.get("method"), entries.get("bits")
    if method is not None and method not in METHODS:
        raise InputError(f"there is no method {method!r}", where=where, hint=f"method: {ENTRIES['method']}")
    scale = _scale(entries["scale"], where) if "scale" in entries else None
    if isinstance(scale, np.ndarray):
        raise InputError("a value has one scale, not a list", where=where, hint=f"scale: {ENTRIES['scale']}")
    rule = Rule(None if method is None else str(method), _bits(bits, VALUE_BITS, where), scale)
    if "weights" not in entries:
        return rule, None
    inner = _entries(entries["weights"], OF_WEIGHTS, f"{where}: weights")
    return rule, Rule(None, _bits(inner.get("bits"), WEIGHT_BITS, f"{where}: weights"),
                      _scale(inner["scale"], f"{where}: weights") if "scale" in inner else None)


def _entries(given: object, known: Mapping[str, str], where: str) -> Mapping[str, object]:
    if not isinstance(given, Mapping):
        raise InputError(f"{given!r} is no mapping", where=where, hint=_hint(known))
    for key in given:
        if key not in known:
            raise InputError(f"there is no entry {key!r}", where=where, hint=_hint(known))
    return given


def _hint(known: Mapping[str, str]) -> str:
    return "; ".join(f"{key}: {what}" for key, what in known.items())


def _bits(bits: object, known: tuple[int, ...], where: str) -> int | None:
    if bits is None:
        return None
    if type(bits) is not int or bits not in known:
        raise InputError(f"bits is {bits!r}", where=where, hint=f"give {' or '.join(map(str, known))}")
    return bits


def _scale(scale: object, where: str) -> float | Array:
    """A number above 0, or float64 [N] of them."""
    many = isinstance(scale, (list, tuple, np.ndarray))
    numbers = list(scale) if isinstance(scale, (list, tuple, np.ndarray)) else [scale]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float, np.number)) or not math.isfinite(number) or number <= 0:
            raise InputError(f"scale is {number!r}, not a number above 0", where=where, hint="the real value of one unit of the integers")
    if not numbers:
        raise InputError("scale is an empty list", where=where, hint=f"scale: {OF_WEIGHTS['scale']}")
    return np.array(numbers, np.float64) if many else float(numbers[0])     # type: ignore[arg-type]


def _over(first: Rule, then: Rule) -> Rule:
    """The entries of ``then``, and those of ``first`` where it has none."""
    return Rule(then.method or first.method, then.bits or first.bits, first.scale if then.scale is None else then.scale)
