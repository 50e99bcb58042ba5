"""Every error hwgen raises on purpose. The text is part of the product and under test.

    HwgenError                    exit code 2: bad input
    ├── ModelError                the ONNX file or the network
    ├── ShapeError                a dimension that must be fixed or given
    ├── CalibrationError          the calibration set
    ├── InputError                an option, a value of the API, or data given to ``simulate``
    ├── TargetError               board name, board file or family file
    ├── CapacityError             does not fit the board
    ├── OutputError               output directory
    ├── BuildVersionError         build directory of another version, or damaged
    ├── MismatchError             exit code 1: a comparison failed
    └── ToolError                 exit code 3: a tool is missing or failed
"""

from __future__ import annotations

from collections import abc
import typing

SHOWN = 6       # causes in a text; `hwgen check --json` holds all


class HwgenError(Exception):
    """One message for the user: what is wrong, where (ONNX node, file, option), and what to do next.

    others: further causes that do not follow from this one; behind: nodes that cannot be judged or computed for want of this one's result;
    node: the node there are no steps for, where it is one: the host may run it instead.
    """

    exit_code = 2
    others: tuple[HwgenError, ...] = ()
    behind: int = 0
    node: str | None = None

    def __init__(self, message: str, where: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message, self.where, self.hint = message, where, hint

    def about(self, node: str | None) -> typing.Self:
        """Itself, about this node unless it is about another one."""
        self.node = self.node or node
        return self

    def __str__(self) -> str:
        lines = self._lines(set())
        told = {self.hint}
        for other in self.others[:SHOWN - 1]:
            first, *rest = other._lines(told)
            lines += [f"also: {first}", *rest]
            told.add(other.hint)
        more = len(self.others) - (SHOWN - 1)
        if more > 0:
            lines.append(f"also: {more} further cause{'s' * (more > 1)}; hwgen check --json FILE holds them")
        return "\n".join(lines)

    def _lines(self, told: set[str | None]) -> list[str]:
        """The message, the place, and the next step unless it was told before."""
        behind = f" (and {self.behind} node{'s' * (self.behind > 1)} behind it)" if self.behind else ""
        lines = [self.message if self.where else self.message + behind]
        lines += [f"  at:   {self.where}{behind}"] if self.where else []
        return lines + ([f"  next: {self.hint}"] if self.hint and self.hint not in told else [])

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {"message": self.message, "where": self.where, "hint": self.hint, "behind": self.behind,
                "others": [other.to_dict() for other in self.others]}


E = typing.TypeVar("E", bound=HwgenError)


def combined(errors: abc.Sequence[E]) -> E:
    """The first error, with the others, and theirs, as further causes; what several tasks say alike is said once."""
    every: list[HwgenError] = []
    for error in errors:
        every += [error, *error.others]
    told = {(errors[0].message, errors[0].where)}
    others: list[HwgenError] = []
    for cause in every:
        if (cause.message, cause.where) not in told:
            told.add((cause.message, cause.where))
            others.append(cause)
    errors[0].others = tuple(others)
    return errors[0]


class ModelError(HwgenError):
    """The ONNX file or the network in it cannot be used."""


class ShapeError(HwgenError):
    """A dimension is dynamic or does not fit."""


class CalibrationError(HwgenError):
    """The calibration set is missing or does not fit the model."""


class InputError(HwgenError):
    """An option, a value given to the API, or a file of arrays is wrong or does not fit the build; or there is no such build."""


class TargetError(HwgenError):
    """Unknown board, or a bad board or family file."""


class CapacityError(HwgenError):
    """The network does not fit the board; the message holds both numbers."""


class OutputError(HwgenError):
    """The output directory cannot be written or holds something else."""


class BuildVersionError(HwgenError):
    """The build directory is of another hwgen version, or damaged."""


class MismatchError(HwgenError):
    """Two levels that must agree do not: hardware and integer model bit for bit, the ONNX file and what was read in it within `hwgen.judge`'s
    limits."""

    exit_code = 1


class ToolError(HwgenError):
    """A tool is missing or failed."""

    exit_code = 3
