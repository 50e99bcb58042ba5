"""What the runner tells the bench inside the simulator, through the environment variable HWGEN_BENCH (JSON)."""

import json
import os

from hwgen.engine import EngineConfig

VARIABLE = "HWGEN_BENCH"


def parameters() -> dict:
    """``config``: fields of the EngineConfig (if the design has one); ``inputs``: input ports but clk and rst; and the bench's own."""
    return json.loads(os.environ[VARIABLE])


def config() -> EngineConfig:
    """The configuration the design was made with."""
    return EngineConfig(**parameters()["config"])
