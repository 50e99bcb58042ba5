"""JSON from files that may hold anything: what comes out can be printed and written again."""

from __future__ import annotations

import json
import math


def parse(data: bytes):
    """The value in ``data``, UTF-8. Raises ValueError for anything else, also for NaN, infinity, half a surrogate pair, and for nesting too
    deep for Python."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"not text in UTF-8: {error.reason}") from error
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value
