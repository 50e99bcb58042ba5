"""What every operator must say of itself; and that an operator file that forgets something is named."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
import inspect
from pathlib import Path

import numpy as np
import pytest

from hwgen import ops
from hwgen.graph import Node
from hwgen.matching.trial import Match
from hwgen.ops.operator import Operator, Spellings
from hwgen.ops.registry import operators, rules, spellings

MACHINERY = {"affine", "convolved", "expert_weights", "gating", "heads", "joined", "masks", "mixture", "operands", "operator", "registry", "routing", "parts", "softmix", "spelled_activation", "spelled_norm",
             "spelled_prune"}     # files that hold no operator


def forgotten(operator: type[Operator]) -> list[str]:
    """What is missing in an operator, in words."""
    name, found = operator.__name__, []
    found += [f"{name} has no {method}()" for method in sorted(operator.__abstractmethods__)]
    if not is_dataclass(operator) or "__init__" not in vars(operator):
        return [*found, f"{name} is no dataclass"]
    own = [field.name for field in fields(operator) if field.name not in ("name", "output")]
    values = [field.name for field in fields(operator) if field.name in own and str(field.type) == "str"]
    if list(operator.VALUES) != values:
        found.append(f"{name}.VALUES is {operator.VALUES}, its fields that name values are {tuple(values)}")
    found += [f"{name} has no docstring"] if not operator.__doc__ or operator.__doc__.startswith(f"{name}(") else []
    if "spellings" not in operator.__abstractmethods__:
        for kind, tried in operator.spellings().rules.items():
            found += [f"{name}: the rule {rule.__name__} for {kind} is of another file" for rule in tried
                      if rule.__module__ != operator.__module__ or list(inspect.signature(rule).parameters) != ["op", "trial"]]
    return found


@pytest.mark.parametrize("operator", operators(), ids=lambda operator: operator.__name__)
def test_an_operator_says_all_of_itself(operator):
    assert forgotten(operator) == []
    assert operator.__name__ in ops.__all__


def test_every_file_that_holds_no_machinery_holds_an_operator():
    files = {path.stem for path in Path(ops.__file__).parent.glob("*.py")} - {"__init__"}
    assert {operator.__module__.rpartition(".")[2] for operator in operators()} == files - MACHINERY
    assert all(issubclass(known, Operator) for known in operators())


def test_what_an_operator_forgets_is_named():
    @dataclass(frozen=True, eq=False, repr=False)
    class Half(Operator):
        x: str
        other: str

        def shape(self, *shapes):
            return shapes[0]

    class Bare(Operator):
        """Not even a dataclass."""

        def evaluate(self, *operands, inner=None):
            return operands[0]

    assert forgotten(Half) == ["Half has no evaluate()", "Half has no lower()", "Half has no spellings()",
                               "Half.VALUES is ('x',), its fields that name values are ('x', 'other')", "Half has no docstring"]
    assert forgotten(Bare) == ["Bare has no lower()", "Bare has no shape()", "Bare has no spellings()", "Bare is no dataclass"]
    with pytest.raises(TypeError, match="evaluate"):
        Half("h", "y", "x", "z")


def test_a_rule_that_is_written_elsewhere_is_named():
    def rule(op, trial) -> Match | None:
        return None

    @dataclass(frozen=True, eq=False, repr=False)
    class Lent(ops.Select):
        """Its rule takes something else."""

        @classmethod
        def spellings(cls):
            return Spellings({"Elu": (rule, lambda op: None)})

    assert forgotten(Lent) == ["Lent: the rule <lambda> for Elu is of another file"]


def test_the_table_of_rules_holds_each_once_folding_first():
    listed = [(kind, rule) for known in spellings() for kind, tried in known.rules.items() for rule in tried]
    assert sorted((kind, rule.__name__) for kind, tried in rules().items() for rule in tried) == sorted((kind, rule.__name__) for kind, rule in listed)
    assert all(rules()[kind][0].__name__ == "scale_and_shift" for kind in ("Add", "Sub", "Mul", "Div"))


@pytest.mark.parametrize("node", [
    ops.Linear("l", "y", "x", np.ones((3, 2), np.float32), np.zeros(2, np.float32)), ops.Attention("a", "y", "q", "k", "v", 2, 0.5), ops.Mean("m", "y", "x", 1)])
def test_fields_are_values_weights_or_attributes(node: Node):
    names = {field.name for field in fields(node)} - {"name", "output"}
    assert names == {*node.VALUES, *node.params(), *node.attributes()}
    assert all(isinstance(array, np.ndarray) for array in node.params().values())


def test_an_affine_change_of_the_weights_is_one_of_the_result():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    scale, shift = rng.normal(size=4), rng.normal(size=4)
    for node, x in ((ops.Linear("l", "y", "x", normal(3, 4), normal(4)), normal(2, 5, 3)),
                    (ops.LayerNorm("n", "y", "x", normal(4), normal(4), 1e-5), normal(2, 5, 4)),
                    (ops.PatchEmbed("p", "y", "x", normal(4, 3, 2, 2), normal(4)), normal(2, 3, 4, 6))):
        changed = type(node)(node.name, node.output, *node.inputs, **{**node.params(), **node.attributes(), **node.affine(scale, shift)})
        np.testing.assert_allclose(changed.evaluate(x), node.evaluate(x) * scale + shift, atol=1e-5)
    assert ops.Mean("m", "y", "x").affine(scale, shift) is None
