"""Rows of ONNX nodes, as a report's instructions or a simulation give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

END = "end of frame"     # a row for what belongs to no node
SUMMED = ("cycles", "wait_tile", "wait_hazard", "useful_macs")       # of the instructions of a node
SKIPPED = "skipped (other task)"


def rows_of(data: Mapping[str, Any], peak: int) -> list[dict[str, Any]]:
    """See `Story.cycles_by_node`. peak: multiply-accumulates of the array in a cycle, 0 where nothing says it."""
    rows = data.get("layers") or _summed(data)
    return [{"skipped": False, **row, "utilization": row["useful_macs"] / (row["cycles"] * peak) if row["cycles"] and peak else 0.0} for row in rows]


def _summed(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the estimated instructions. A node is skipped when each of its instructions runs for another task than the first."""
    sums: dict[str, dict[str, Any]] = {}
    for row in data.get("instructions", ()):
        name = row["node"] or END
        found = sums.setdefault(name, {"node": name, "instructions": 0, "skipped": True, **dict.fromkeys(SUMMED, 0)})
        found["instructions"] += 1
        found["skipped"] &= bool(row["task"])
        for key in SUMMED:
            found[key] += row[key]
    return list(sums.values())


def counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of ONNX nodes."""
    return [row for row in rows if row["node"] != END]
