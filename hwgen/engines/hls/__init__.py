"""The HLS engine: steps -> a Vitis HLS project with its estimate. `csim` runs it.

    calls      steps -> calls: the step table                    plan       memory map, weight image, one table for all tasks
    start, products, attention, experts: the kinds of calls      estimate   cycles, resources, the choice for a board
    call, value, names: what all of them have                    project    files
    engine     all of it behind the protocol of engines
"""

from __future__ import annotations

from .call import ALL_TASKS, Call
from .plan import Plan
from .project import files, frames

__all__ = ["ALL_TASKS", "Call", "Plan", "files", "frames"]
