"""The engines there are. A new one is a folder beside this file and a line here, and the names of its files in `hwgen.build.directory`."""

from __future__ import annotations

from typing import Any

from .hls.engine import HlsEngine
from .protocol import Engine
from .rtl.engine import RtlEngine

ENGINES: dict[str, Engine[Any]] = {engine.name: engine for engine in (RtlEngine(), HlsEngine())}
BACKENDS: dict[str, tuple[str, ...]] = {**{name: (name,) for name in ENGINES}, "both": tuple(ENGINES)}
"""What ``--backend`` may be -> the engines of the build."""
