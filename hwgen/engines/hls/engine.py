"""The HLS engine behind the protocol of engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...devices.board import Board
from ...errors import CapacityError, InputError
from ...steps.step import Quantized
from ..protocol import Conditions, Facts, Files, Result, Wishes
from . import csim, estimate, project
from .plan import Plan


class HlsEngine:
    """C++ for Vitis HLS. Its plan is a step table."""

    name = "hls"

    def plan(self, model: Quantized, board: Board, wishes: Wishes) -> Plan:
        """See `estimate.choose`. Raises InputError for an array: lanes and queries are chosen by the estimate."""
        if wishes.array is not None:
            raise InputError(f"the HLS engine has no array of {wishes.array[0]}x{wishes.array[1]}", where="option --array",
                             hint="leave it out, or use --backend rtl")
        if wishes.batch != 1:
            raise CapacityError(f"a batch of {wishes.batch} images; the HLS engine works on one image a frame", where="option --batch",
                                hint="leave it out, or use --backend rtl")
        return estimate.choose(model, board)

    def files(self, plan: Plan, model: Quantized, name: str, board: Board, images: np.ndarray) -> Files:
        """The project in ``hls/``."""
        return project.files(plan, model, name, board, images)

    def run(self, plan: Plan, model: Quantized, files: Mapping[str, bytes], images: np.ndarray, tasks: list[int], how: Conditions) -> Result:
        """See `csim.simulate`."""
        return csim.simulate(plan, model, files, images, tasks, how)

    def facts(self, plan: Plan) -> Facts:
        return Facts(1, len(plan.image), len(plan.image), estimate.useful_macs(plan))

    def cost(self, plan: Plan, model: Quantized, board: Board) -> dict[str, Any]:
        """Section ``hls``."""
        return {"hls": estimate.report(plan, board)}
