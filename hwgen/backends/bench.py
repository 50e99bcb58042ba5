"""Native test bench of a build: the C++ main; it includes the driver the build ships."""

from __future__ import annotations

from ..paths import data_dir


def files() -> dict[str, str]:
    """{relative path: text}."""
    return {"bench/main.cpp": (data_dir("templates") / "bench" / "main.cpp").read_text()}
