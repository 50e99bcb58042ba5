"""Numbers as people read them, each with its unit."""

from __future__ import annotations

import math

STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float, figures: int = 3) -> str:
    """So many significant figures; whole numbers and thousands as whole numbers: 17,658; 0.0589; 49.3."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1000 or value == int(value):
        return f"{round(value):,}"
    return f"{value:.{max(0, figures - 1 - math.floor(math.log10(abs(value))))}f}"


def short(value: float) -> str:
    """For axes and narrow places: 17.7 k, 2.4 M."""
    for step, letter in STEPS:
        if abs(value) >= step:
            return f"{digits(value / step)} {letter}"
    return digits(value)


def percent(share: float) -> str:
    """Of a fraction of one: 93.1 %, 0.42 %; 100 % only when it is all."""
    shown = digits(100 * share)
    return f"{'99.9' if float(shown.replace(',', '')) == 100 and share < 1 else shown} %"


def duration(milliseconds: float) -> str:
    """1.26 ms; below a tenth of a millisecond in microseconds: 58.7 µs."""
    return f"{digits(1e3 * milliseconds)} µs" if milliseconds < 0.1 else f"{digits(milliseconds)} ms"


def kilobytes(count: float) -> str:
    """Bytes as kB (1,000 bytes) or MB."""
    return f"{digits(count / 1e6)} MB" if count >= 1e6 else f"{digits(count / 1e3)} kB"


def plural(count: int, noun: str) -> str:
    """``1 image``, ``4 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def decibels(ratio: float) -> float:
    """Signal to noise of a relative error (root mean square over that of the signal); 200 where there is none."""
    return 200.0 if ratio <= 0 else min(200.0, -20 * math.log10(ratio))


def tail(name: str, most: int = 30) -> str:
    """A node's name for a narrow place: the last two parts of a path, and of these the end."""
    short_name = "/".join(name.strip("/").split("/")[-2:])
    return short_name if len(short_name) <= most else f"…{short_name[1 - most:]}"
