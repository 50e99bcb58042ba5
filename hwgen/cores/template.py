"""A template: one kind of core, for both backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from ..errors import InputError
from ..knots import knots
from ..numerics import quantize_multiplier
from .parameter import Parameter, Value

Derived = Mapping[str, object]
LANES = Parameter("lanes", 8, "elements a word, and a cycle", choices=(1, 2, 4, 8, 16, 32, 64))
OUT_BITS = Parameter("out_bits", 8, "bits of a result", choices=(8, 16))


@dataclass(frozen=True)
class Template:
    """One kind of core.

    parameters: in the order in which they are listed. derive: what follows from their values, for golden model and hardware alike; raises InputError
    for values that do not go together. golden: file of `golden`. arrays: files of rtl/sv. header, function: of hls/cores; rtl: class in the
    file of the header's name in hwgen_rtl.cores. constants: (name, type, attribute) of the C++ configuration. ports: bits of s_* and m_axis.
    latency: cycles from the first word of a row to its first result without pauses, or None: run.py says it. words_per_call: results that a call of
    the C++ function gives.
    """

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    derive: Callable[[SimpleNamespace], Derived]
    golden: str
    rtl: str
    arrays: tuple[str, ...]
    header: str
    function: str
    constants: tuple[tuple[str, str, str], ...]
    ports: Callable[[SimpleNamespace], dict[str, int]]
    latency: Callable[[SimpleNamespace], int | None]
    words_per_call: Callable[[SimpleNamespace], int]
    rows: bool = False          # tlast is checked


def factor(ratio: float, what: str, hint: str) -> tuple[int, int]:
    """Multiplier and shift of a ratio. Raises InputError when there are none."""
    try:
        return quantize_multiplier(ratio)
    except ValueError as error:
        raise InputError(f"{what} = {ratio:.3g} is out of the range of a multiplier of 16 bits and a shift of 1 to 47", where="option --set",
                         hint=hint) from error


def words_of_row(p: SimpleNamespace, otherwise: str) -> int:
    """Raises InputError when the lanes do not divide a row. otherwise: what to do for other lanes than divide it."""
    if p.length % p.lanes:
        possible = [n for n in LANES.choices if isinstance(n, int) and p.length % n == 0]
        raise InputError(f"lanes = {p.lanes} does not divide length = {p.length}", where="option --set",
                         hint=f"for this length lanes may be {', '.join(map(str, possible))}; {otherwise}")
    return int(p.length // p.lanes)


def table(function: str) -> dict[str, object]:
    """The knots of a function, as the golden model reads them."""
    found = knots(function)
    return {"knots": found.value.tolist(), "slopes": found.slope.tolist(), "ends": [list(end) for end in found.ends]}


def constants(template: Template, p: SimpleNamespace) -> list[tuple[str, str, str]]:
    """(name, type, literal) of the C++ configuration."""
    def literal(value: Value) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)
    return [(name, kind, literal(getattr(p, attribute))) for name, kind, attribute in template.constants]
