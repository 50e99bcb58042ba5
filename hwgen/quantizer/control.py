"""What a user says of single layers: a mapping or a YAML file, by the names or patterns of ONNX nodes -> `Recipe`.

    /blocks/blocks.0/mlp/act/Mul: {bits: 16}
    "*attn*":                     {method: mse, weights: {bits: 8}}
    x:                            {scale: 0.0213}
    bias_correction: true

The rule of a node is for the value it stores; ``weights`` is for its weights, ``bias_correction`` for the biases behind them. Where several patterns
fit, a later line goes before an earlier one, entry by entry. ``bias_correction`` on a line of its own is for all nodes without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import difflib
from fnmatch import fnmatchcase
import json
import math

import numpy as np

from ..errors import InputError
from ..graph import Array, Model
from ..steps.step import Quantized
from ..steps.tensor import Memory
from .precision import Precision
from .recipe import METHODS, VALUE_BITS, WEIGHT_BITS, Recipe, Rule, known_methods

CORRECTION = "bias_correction"
ENTRIES = {"method": f"one of {', '.join(METHODS)}", "bits": "8 or 16", "scale": "a number above 0", "weights": "bits (4 or 8), scale, or both",
           CORRECTION: "true or false"}
OF_WEIGHTS = {"bits": "4 or 8", "scale": "a number above 0, or a list of one an output channel"}
KNOWN = 6               # near names in a message


def recipe(layers: object, model: Model, became: Mapping[str, str], where: str = "quant") -> Recipe:
    """The rules of ``layers``: {name or pattern: {"method", "bits", "scale", "bias_correction", "weights": {"bits", "scale"}}, "bias_correction"}.

    became: ONNX nodes that are part of another one -> that one. where: what the rules came from, for messages. Raises InputError for a name
    that no node has, an entry there is not, and a value an entry cannot have.
    """
    if not isinstance(layers, Mapping):
        raise InputError(f"the layers' rules are {type(layers).__name__}, not a mapping of node names", where=where, hint=_hint(ENTRIES))
    owners: dict[str, list[str]] = {}                       # the three parts of a Linear for q, k and v have one name
    for node in (node for graph in model.tasks for node in graph.nodes):
        owners.setdefault(node.name, []).append(node.output)
    inputs = {name: name for graph in model.tasks for name in graph.inputs}
    names = {**{name: owner for name, owner in became.items() if owner in owners}, **{name: name for name in (*owners, *inputs)}}
    values: dict[str, Rule] = {}
    exact: set[tuple[str, tuple[str, ...]]] = set()
    weights: dict[str, Rule] = {}
    everywhere: bool | None = None
    for pattern, given in layers.items():
        if pattern == CORRECTION and not isinstance(given, Mapping):
            everywhere = _flag(given, where)
            continue
        place = f"{where}: {pattern}"
        rule, of_weights = _rule(given, place)
        for owner in dict.fromkeys(names[name] for name in _fitting(str(pattern), names, where)):
            stored = tuple(owners.get(owner, [owner]))
            if (rule.method, rule.bits, rule.scale) != (None, None, None):
                values |= {value: _over(values.get(value, Rule()), rule) for value in stored}
                exact |= {("value", stored)} if pattern in names else set()
            if of_weights is not None and owner in inputs and pattern in names:
                raise InputError("an input has no weights", where=place, hint="give the rule to the node that reads it")
            if of_weights is not None and owner in owners:
                weights[owner] = _over(weights.get(owner, Rule()), of_weights)
                exact |= {("weights", (owner,))} if pattern in names else set()
    return Recipe(values, weights, frozenset(exact), bias_correction=everywhere)


def _fitting(pattern: str, names: Iterable[str], where: str) -> list[str]:
    """The names a pattern is for. Raises InputError with near ones when there are none."""
    found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = ", ".join(difflib.get_close_matches(pattern, list(names), KNOWN, 0.0))
        raise InputError(f"no node and no input is called {pattern!r}", where=where,
                         hint=f"near names: {near}; hwgen show MODEL.onnx --stage quant prints all")
    return found


def _rule(given: object, where: str) -> tuple[Rule, Rule | None]:
    """(of the value, of the weights or None)"""
    entries = _entries(given, ENTRIES, where)
    method, bits = entries.get("method"), entries.get("bits")
    if method is not None and method not in METHODS:
        raise InputError(f"there is no method {method!r}", where=where, hint=known_methods(method))
    scale = _scale(entries["scale"], where) if "scale" in entries else None
    if isinstance(scale, np.ndarray):
        raise InputError("a value has one scale, not a list", where=where, hint=f"scale: {ENTRIES['scale']}")
    rule = Rule(None if method is None else str(method), _bits(bits, VALUE_BITS, where), scale)
    if "weights" not in entries and CORRECTION not in entries:
        return rule, None
    inner = _entries(entries.get("weights", {}), OF_WEIGHTS, f"{where}: weights")
    return rule, Rule(None, _bits(inner.get("bits"), WEIGHT_BITS, f"{where}: weights"),
                      _scale(inner["scale"], f"{where}: weights") if "scale" in inner else None,
                      _flag(entries[CORRECTION], where) if CORRECTION in entries else None)


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


def _flag(given: object, where: str) -> bool:
    if not isinstance(given, bool):
        raise InputError(f"{CORRECTION} is {given!r}", where=where, hint=f"{CORRECTION}: {ENTRIES[CORRECTION]}")
    return given


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
    return Rule(then.method or first.method, then.bits or first.bits, first.scale if then.scale is None else then.scale,
                first.bias_correction if then.bias_correction is None else then.bias_correction)


# ---------------------------------------------------------------- what is in effect

@dataclass(frozen=True)
class Effective:
    """The rules in effect for a node. value, weights: entries as `recipe` takes them, empty where the node has none. corrected: whether the biases
    behind its weights are; None where nobody asked. note: unit and largest real value of what is stored, "" where nothing is."""

    name: str
    value: Mapping[str, object] = field(default_factory=dict)
    weights: Mapping[str, object] = field(default_factory=dict)
    note: str = ""
    corrected: bool | None = None

    @property
    def entries(self) -> dict[str, object]:
        """As `recipe` takes them."""
        return {**self.value, **({"weights": dict(self.weights)} if self.weights else {}),
                **({} if self.corrected is None else {CORRECTION: self.corrected})}

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {"name": self.name, **self.entries, "note": self.note}


def effective(model: Model, quantized: Quantized, rules: Recipe, method: str, precision: Precision,
              methods: Mapping[str, str]) -> list[Effective]:
    """Of every node that stores a value or weights, and of the input, in the order of the network. method, precision: where no rule has one;
    methods: what `auto` chose."""
    heard = rules.decided(precision, quantized.calibration == "random")
    weighted: set[str] = set()
    outputs = {node.name: node.output for graph in model.tasks for node in graph.nodes}
    nodes = {node.output: node.name for graph in model.tasks for node in graph.nodes}
    found: dict[str, Effective] = {}
    for network in quantized.tasks:
        feed, tensor = network.input
        known: dict[str, str] = {tensor.name: feed.input}
        for step in network.steps:
            kept = step.sink.tensor
            value = outputs.get(step.node, "") if step.expert is not None else known.get(step.value) or step.value
            if kept.memory in (Memory.ACT, Memory.KV) and (step.expert is not None or not step.part):
                rule, unit = rules.value(value), float(kept.units.max())
                entries: dict[str, object] = {"bits": kept.format.bits}
                entries |= {"method": methods.get(value) or rule.method or method} if rule.scale is None else {"scale": np.ravel(rule.scale).tolist()}
                entries |= {"scale": unit} if rule.scale is not None and np.size(rule.scale) == 1 else {}
                by = ", the method by auto" if value in methods else ""
                name = nodes.get(value, value)
                before = found.get(name, Effective(name))
                note = f"unit {unit:.6g}, up to {unit * kept.format.hi:.4g}{by}"
                found[name] = before if before.value else replace(before, value=entries, note=note)
            if step.weights is not None and step.node in nodes.values():
                rule, form = rules.weight(step.node, step.about), step.weights.format
                given = rule.scale
                refused = False in (rule.bias_correction, rules.bias_correction)
                corrects = True if heard.corrects(rule) else False if refused else None
                own: dict[str, object] = {"bits": form.bits}
                own |= {} if given is None else {"scale": float(np.ravel(given)[0]) if np.size(given) == 1 else np.ravel(given).tolist()}
                before = found.get(step.node, Effective(step.node))
                first = step.node not in weighted
                weighted.add(step.node)
                same = own if first else {key: value for key, value in own.items() if before.weights.get(key) == value}    # of all its parts
                found[step.node] = replace(before, weights=same, corrected=corrects if first or before.corrected == corrects else None)
    return list(found.values())


def _yaml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def text(rules: Sequence[Effective]) -> str:
    """As a YAML file: a line a node, what is chosen by calibration in a comment."""
    names = [json.dumps(rule.name) for rule in rules]
    width = min(60, max(map(len, names), default=0)) + 1
    lines = ["# rules by ONNX node (a name, or a pattern with *): what is left out is chosen by calibration"]
    for name, rule in zip(names, rules, strict=True):
        entries = [f"{key}: {_yaml(value)}" for key, value in rule.entries.items()]
        lines.append(f"{name + ':':{width}} {{{', '.join(entries)}}}" + (f"    # {rule.note}" if rule.note else ""))
    return "\n".join(lines) + "\n"
