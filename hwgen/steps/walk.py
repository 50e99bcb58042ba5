"""What a step refers to: the tensors and params in its records, wherever they stand, and the same step with other ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from .param import Param
from .step import Step
from .tensor import Tensor, View


def tensors(record: Any) -> Iterator[Tensor]:
    """Every tensor in a record, repetitions included."""
    return (item for item in _leaves(record) if isinstance(item, Tensor))


def params(record: Any) -> Iterator[Param]:
    """Every param in a record, repetitions included."""
    return (item for item in _leaves(record) if isinstance(item, Param))


def views(step: Step) -> tuple[list[View], list[View]]:
    """(read, written) views of a step; what is added to counts as both."""
    read = [view for record in (step.source_view, step.taken, step.feed, step.tile, *step.drain, step.expert) for view in _views(record)]
    return read, list(step.sinks)


def with_tensors(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The record with ``change`` applied to every tensor in it; the record itself when nothing changes."""
    return _with(record, Tensor, change)


def with_views(record: Any, change: Callable[[View], View]) -> Any:
    """The same for every view in it."""
    return _with(record, View, change)


def _with(record: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(record, kind):
        return change(record)
    match record:
        case tuple():
            items = tuple(_with(item, kind, change) for item in record)
            return items if any(a is not b for a, b in zip(items, record, strict=True)) else record
        case Param():
            return record
    changed = {}
    for name in _fields(type(record)):
        before = getattr(record, name)
        after = _with(before, kind, change)
        if after is not before:
            changed[name] = after
    return replace(record, **changed) if changed else record


def _leaves(record: Any) -> Iterator[Any]:
    if isinstance(record, (Tensor, Param)):
        yield record
    elif isinstance(record, tuple):
        for item in record:
            yield from _leaves(item)
    else:
        for name in _fields(type(record)):
            yield from _leaves(getattr(record, name))


def _views(record: Any) -> Iterator[View]:
    if isinstance(record, View):
        yield record
    elif not isinstance(record, (Tensor, Param)):
        for name in _fields(type(record)):
            yield from _views(getattr(record, name))


_FIELDS: dict[type, tuple[str, ...]] = {}


def _fields(kind: type) -> tuple[str, ...]:
    """Names of the fields of a record's class; none of any other."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(entry.name for entry in fields(kind)) if is_dataclass(kind) else ()
    return _FIELDS[kind]
