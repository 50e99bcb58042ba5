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


class HwgenError(Exception):
    """One message for the user: what is wrong, where (ONNX node, file, option), and what to do next."""

    exit_code = 2

    def __init__(self, message: str, where: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message, self.where, self.hint = message, where, hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  at:   {self.where}")
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)


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
