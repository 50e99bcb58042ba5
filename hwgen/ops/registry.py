"""Which operators there are: those defined in the files of this folder; and the table of all their rules."""

from __future__ import annotations

from functools import cache
from importlib import import_module
import pkgutil

from ..matching.trial import Rule
from . import __path__ as folder, affine, convolved
from .operator import Operator, Spellings


@cache
def operators() -> tuple[type[Operator], ...]:
    """Every operator, by the name of its file."""
    found: list[type[Operator]] = []
    for entry in pkgutil.iter_modules(folder):
        module = import_module(f"{__package__}.{entry.name}")
        found += [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Operator)
                  and value is not Operator and value.__module__ == module.__name__]
    return tuple(found)


@cache
def spellings() -> tuple[Spellings, ...]:
    """Of every operator, by rank; first the folding into a node that is there already."""
    return affine.SPELLINGS, *sorted((*(operator.spellings() for operator in operators()), convolved.SPELLINGS), key=lambda known: known.rank)


@cache
def rules() -> dict[str, tuple[Rule, ...]]:
    """For each ONNX operator the rules tried on it, in order."""
    table: dict[str, tuple[Rule, ...]] = {}
    for known in spellings():
        for kind, found in known.rules.items():
            table[kind] = (*table.get(kind, ()), *found)
    return table


@cache
def parts() -> dict[str, str]:
    """ONNX operators that are only supported as a part of something, and of what."""
    table: dict[str, list[str]] = {}
    for known in (*spellings()[1:], spellings()[0]):
        for kind, what in known.parts.items():
            table.setdefault(kind, []).append(what)
    return {kind: " or ".join(filter(None, [", ".join(found[:-1]), found[-1]])) for kind, found in sorted(table.items())}


@cache
def openers() -> frozenset[str]:
    """ONNX operators behind which any other may be a part of something, which is tried before that one is given up."""
    return frozenset().union(*(known.opens for known in spellings()))
