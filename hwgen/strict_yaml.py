"""YAML from files that may hold anything. The only module that knows YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from .errors import HwgenError


def read(path: Path, wrong: Callable[[str], HwgenError]) -> dict[object, object]:
    """The mapping in the file. wrong: ("cannot be read: …") -> the error that is raised for anything else."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise wrong("is nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:          # ValueError: bytes that are no UTF-8, a date that is none
        raise wrong(f"is not YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(data, dict):
        raise wrong(f"holds {type(data).__name__}, expected a map of keys")
    return data
