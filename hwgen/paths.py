"""Where the data folders are: in the checkout, or in the installed wheel."""

from __future__ import annotations

from pathlib import Path

from .errors import ToolError

PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str, package: Path = PACKAGE) -> Path:
    """The folder ``name`` ("boards", "rtl/sv"): ``hwgen/_data/<name>`` of a wheel, else ``<checkout>/<name>``.

    Raises ToolError when there is neither. A folder beside the package counts only in a checkout (pyproject.toml beside it):
    site-packages may hold somebody else's.
    """
    installed, checkout = package / "_data" / name, package.parent / name
    if installed.is_dir():
        return installed
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise ToolError(f"the folder {name!r} of hwgen is missing", where=str(package), hint="install hwgen again")
