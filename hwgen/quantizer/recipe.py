"""What overrides calibration, value by value and weight by weight: the one way in, whoever asks (a file, a search, a quantized model)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import difflib

import numpy as np

from ..errors import ModelError
from ..graph import Array, Model
from ..steps.format import INT4
from .grid import Steps
from .precision import Precision

AUTO = "auto"           # the best of the others for each value: `selection`
METHODS = ("minmax", "percentile", "mse", "entropy", AUTO)
VALUE_BITS = (8, 16)
WEIGHT_BITS = (4, 8)


def known_methods(name: object) -> str:
    """What to do about a method that is none: the nearest one, if there is one, and all."""
    near = difflib.get_close_matches(str(name), METHODS, 1)
    return f"{f'did you mean {near[0]}? ' if near else ''}there are {', '.join(METHODS)}"


@dataclass(frozen=True, eq=False)
class Rule:
    """What is not left to calibration; None leaves it.

    method: how the range is chosen, one of `METHODS`. bits: of a value 8 or 16, of a weight 4 or 8. scale: real value of one unit, > 0; of
    a weight a number or float [output channels]; of a value a number, or a number a channel where it folds exactly: results of Linear nodes and
    of activations, float [channels], and what lies between the layers of a MoE, float [channels] or [experts, channels]. Those of q and k
    must cancel. Behind an activation the next larger scale is taken that the hardware has a multiplier for. bias_correction: of weights, whether
    the mean error of their columns is taken out of the bias (`bias`).
    """

    method: str | None = None
    bits: int | None = None
    scale: float | Array | None = None
    bias_correction: bool | None = None

    @property
    def fine(self) -> bool:
        """Whether the value has 16 bits or a scale a channel, so that the fraction bits of what it is made of show."""
        return self.bits == max(VALUE_BITS) or self.scale is not None and np.size(self.scale) > 1

    def over(self, then: Rule) -> Rule:
        """The entries of ``then``, and these where it has none. A method it has goes before a scale here."""
        scale = self.scale if then.scale is None and then.method is None else then.scale
        return Rule(then.method or self.method, then.bits or self.bits, scale)

    def wrong(self, bits: tuple[int, ...]) -> str | None:
        """What is wrong with it, or None. bits: the widths there are."""
        if self.method is not None and self.method not in METHODS:
            return f"there is no method {self.method!r}; {known_methods(self.method)}"
        if self.bits is not None and self.bits not in bits:
            return f"there are no {self.bits!r} bits; there are {' and '.join(map(str, bits))}"
        scales = np.ravel(1.0 if self.scale is None else self.scale)
        bad = scales[~(np.isfinite(scales) & (scales > 0))]
        return f"a scale is {bad[0]:g}, not a positive number" if len(bad) else None


NOTHING = Rule()


@dataclass(frozen=True, eq=False)
class Recipe:
    """values: name of a value of the float graph -> rule of what is stored for it (of a LayerNorm the normalised value before gamma and
    beta, of a MoE the activations between its layers). weights: name of a float node -> rule of its weights; ``node: part`` for a part of
    them as listings show it (``moe: expert 0, layer 1``), which goes before the rule of the node. exact: rules that have to find a
    use: ("value", names of which one is enough) and ("weights", (node,)). steps: of a quantized file; weights that are whole multiples of one,
    and have no rule with a scale, keep their whole numbers. bias_correction: of all weights that have no rule for it; None: where
    the network has weights of 4 bits, unless they come from a quantized file.
    """

    values: Mapping[str, Rule] = field(default_factory=dict)
    weights: Mapping[str, Rule] = field(default_factory=dict)
    exact: frozenset[tuple[str, tuple[str, ...]]] = frozenset()
    steps: Steps | None = None
    bias_correction: bool | None = None

    def value(self, name: str) -> Rule:
        return self.values.get(name, NOTHING)

    def weight(self, node: str, part: str) -> Rule:
        return self.weights.get(f"{node}: {part}", self.weights.get(node, NOTHING))

    def corrects(self, rule: Rule) -> bool:
        """Whether the bias behind weights with this rule is corrected."""
        return bool(self.bias_correction if rule.bias_correction is None else rule.bias_correction)

    def decided(self, precision: Precision, random: bool) -> Recipe:
        """With `bias_correction` as it is by default where nobody asked. random: noise calibrates, which tells nothing of mean errors."""
        if self.bias_correction is not None:
            return self
        narrow = precision.narrow_linear or precision.narrow_experts or any(rule.bits == INT4.bits for rule in self.weights.values())
        return replace(self, bias_correction=narrow and not random and self.steps is None)

    def verify(self, model: Model) -> None:
        """Raises ModelError for a rule that is none, or that is for something the model does not have."""
        values = {name for graph in model.tasks for name in graph.shapes()}
        nodes = {node.name for graph in model.tasks for node in graph.nodes}
        for what, rules, known, bits in (("value", self.values, values, VALUE_BITS), ("weights of node", self.weights, nodes, WEIGHT_BITS)):
            for name, rule in rules.items():
                if name not in known and name.rpartition(": ")[0] not in known:
                    raise ModelError(f"a rule is for the {what} {name!r}, which the network does not have", where="quantization recipe")
                if wrong := rule.wrong(bits):
                    raise ModelError(f"the rule of the {what} {name!r} cannot be followed: {wrong}", where="quantization recipe")


EMPTY = Recipe()
