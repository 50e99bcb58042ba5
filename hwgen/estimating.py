"""`hwgen estimate`: size and speed of a model on boards within seconds. Nothing is written, no tool is started, the file itself is not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import foreign, reported
from .devices.board import boards
from .errors import CapacityError
from .frontend import Options, on_board, quantized
from .importer import Imported


@dataclass(frozen=True)
class Estimate:
    """Of one board. report: as of a build (docs/reference/json.md), without comparison with the file; None where the network does not fit,
    and ``error`` says why."""

    target: str
    report: dict[str, Any] | None
    error: CapacityError | None

    def __repr__(self) -> str:
        if self.report is None:
            return foreign.visible(f"<Estimate for {self.target}: does not fit>", limit=foreign.REPR)
        cycles = self.report.get("estimate", self.report.get("hls", {})).get("cycles_per_image", 0)
        return foreign.visible(f"<Estimate for {self.target}: {cycles:,.0f} cycles an image>", limit=foreign.REPR)

    def to_dict(self) -> dict[str, Any]:
        return {"target": self.target, "error": self.error and self.error.to_dict(), "report": self.report}


def targets_of(names: str) -> tuple[str, ...]:
    """Boards of an option: ``all``, or names and YAML files with commas between."""
    return tuple(board.name for board in boards()) if names == "all" else tuple(name.strip() for name in names.split(","))


def estimate(imported: Imported, targets: Sequence[str | Path], options: Options, say: Callable[[str], None]) -> list[Estimate]:
    """Of every target, in order. The network is quantized once. Raises the errors of `frontend.quantized`, and CapacityError where it is one
    target that the network does not fit."""
    name = foreign.visible(Path(imported.path).name)
    planned, found = quantized(imported, options.on(str(targets[0])), say, sketch=True), list[Estimate]()
    for target in map(str, targets):
        here = options.on(target)
        try:
            made = on_board(planned, here, say)
        except CapacityError as error:
            if len(targets) == 1:
                raise
            found.append(Estimate(target, None, error))
        else:
            found.append(Estimate(target, reported.report(name, made, here), None))
    return found
