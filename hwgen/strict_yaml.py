"""YAML from files that may hold anything. The only module that knows YAML."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import yaml

from .errors import HwgenError


class _Once(yaml.SafeLoader):
    """Safe, and a key stands once in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for name, _ in node.value:
            key = name.value if isinstance(name, yaml.ScalarNode) and not name.tag.endswith(":merge") else name
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", name.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


@lru_cache(64)
def _parsed(text: str) -> object:
    """One text is parsed once: a compiler asks for the same board again and again."""
    return yaml.load(text, _Once)


def read(path: Path, wrong: Callable[[str], HwgenError]) -> dict[object, object]:
    """The mapping in the file. wrong: ("cannot be read: …") -> the error that is raised for anything else."""
    try:
        data = deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise wrong("is nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:          # ValueError: bytes that are no UTF-8, a date that is none
        raise wrong(f"is not YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(data, dict):
        raise wrong(f"holds {type(data).__name__}, expected a map of keys")
    return data
